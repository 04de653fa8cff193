"""A folder's report in words and numbers: rows with errors over seeds, verdicts, what is missing."""

import itertools
import json
import math
import shlex
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from depthlab.config import FOLDERS, LATER, command, experiment_rows, experiment_seeds, report_command, swept
from depthlab.reports.collect import NO_BREAK, Result, Row, instead, load, rows, spread
from depthlab.reports.verdict import Verdict, judge, matches, select, shown, told

CAPTIONS = {
    "curves": "Error against iterations: mean over seeds, thin for training, bold for test; the band reaches from "
    "the lowest to the highest seed. Vertical lines: the learning rate drops. Crosses: a run diverged. Rings: as far "
    "as an unfinished run has come.",
    "final": "Errors of the last epoch: a dot a seed, mean ± standard deviation over seeds. Crosses at the edge: "
    "seeds that diverged.",
}

MANY = 6
"""So many different commands are too many to be listed."""
NOTHING = ("none", "fixup")
"""Options of a group that are none: Fixup's scalars normalise nothing."""
OPTIMIZER = "recipe.optimizer.name"
STEPS = "steps.json"
"""What `scripts/steps.py` writes beside the runs: the time of a step of each line, relative to the first one's."""
BESIDE = (
    "Each at the rate with the least training error, of equal ones with the least training loss. Norm and shortcut:"
    " whether it has one; Fixup's scalars are none."
    " Parameters: more than the first line's. Step: its time relative to the first line's, measured side by side"
)


@dataclass(frozen=True)
class Sheet:
    """What there is to say about one data set of a folder."""

    data: str
    rows: list[Row]
    verdicts: list[Verdict]
    missing: list[str]
    published: list[dict[str, Any]]
    """The published numbers that these runs can be compared with."""
    commands: str
    """What makes these runs and their report again; where no experiment names them, one of them."""
    measured: list[tuple[dict[str, Any], list[Row]]]
    """The experiment's figures of what probes measured, each with its rows."""
    metrics: list[str]
    """What is measured besides the errors, and what the experiment's claims are about."""
    running: list[Row]
    """The rows of its unfinished runs, which are drawn, and neither averaged nor judged."""
    beside: list[list[str]]
    """The experiment's lines side by side, under a heading; empty where it names none."""
    drawn: list[Row]
    """What the figures of errors show: the rows side by side, or all."""

    @property
    def results(self) -> list[Result]:
        """All its runs."""
        return [result for row in self.rows for result in row.results]

    @property
    def trained(self) -> bool:
        """Whether anything was trained, and not only measured at initialisation."""
        rows = self.rows + self.running
        return any("train_error" in record for row in rows for result in row.results for record in result.records)

    @property
    def captions(self) -> dict[str, str]:
        """The figures by name, `curves-DATA` and `final-DATA` where anything was trained, with their captions."""
        texts = {name: text for name, text in CAPTIONS.items() if self.trained and (self.rows or name == "curves")}
        texts = texts | {stem(figure): figure["title"] for figure, _ in self.measured}
        return {f"{name}-{self.data}": caption for name, caption in texts.items()}

    @property
    def versions(self) -> str:
        """What the runs were made with: `torch 2.9.0; device cpu; precision fp32; commit ...; iterations 64000`."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for result in self.results:
            summary = result.summary
            made_with = summary.get("versions", {}) | {"device": summary.get("device")}
            made_with |= {"precision": result.config.get("precision"), "commit": summary.get("git_commit")}
            made_with |= {"iterations": str(summary["iterations"])} if summary["status"] == "finished" else {}
            for name, value in made_with.items():
                found[name].add(str(value or "unknown"))
        return "; ".join(f"{name} {', '.join(sorted(values))}" for name, values in found.items())


@dataclass(frozen=True)
class Report:
    """A folder of runs: a sheet a data set; the unfinished runs, a line about each broken one."""

    name: str
    title: str
    source: str
    sheets: list[Sheet]
    unfinished: list[Result]
    broken: list[str]

    @property
    def missing(self) -> list[str]:
        """What is missing whatever the data set."""
        return [_unfinished(result) for result in self.unfinished] + [f"broken, skipped: {x}" for x in self.broken]


def gather(folder: Path, experiment: dict[str, Any] | None = None) -> Report:
    """Reads a folder; `experiment`: what its YAML file holds under `experiment`, if it is one's, and its `name`."""
    results, unfinished, broken = load(folder)
    by_data: defaultdict[str, list[Result]] = defaultdict(list)
    for result in results + [result for result in unfinished if result.records]:
        by_data[str(result.summary["choices"]["data"])].append(result)
    name, whole = folder.resolve().name, experiment or {}
    sheets = []
    for data, inside in sorted(by_data.items()):
        every, at = rows(inside), whole.get("published_at", {})
        made, running = ([part for row in every if (part := row.only(finished))] for finished in (True, False))
        published = [p for p in whole.get("published", []) if any(matches(row, at | p["of"]) for row in made)]
        wanted = grid(experiment_rows(experiment, data)) if experiment else []
        absent = missing(wanted, experiment_seeds(whole, data), made)
        absent += [f"figure of {f['y']}{line}" for f in whole.get("figures", []) if (line := instead(f["y"], made))]
        drawn = [(figure, having(figure, made)) for figure in whole.get("figures", [])]
        sides = [side for c in whole.get("claims", []) for side in (c, c.get("predicted", {}))]
        lines = best(whole.get("beside", {}), made)
        metrics = [key for r in inside for key in r.summary["final"] if key.startswith("test_")]
        metrics = [key for key in metrics if key not in ("test_error", "test_loss")]
        metrics = dict.fromkeys([*metrics, *(side["metric"] for side in sides if "." in side.get("metric", ""))])
        sheets.append(
            Sheet(
                data,
                made,
                verdicts(whole, made),
                absent,
                published,
                _commands(name, data, inside, whole.get("name", name) if experiment else None),
                [(figure, inside) for figure, inside in drawn if inside],
                [metric for metric in metrics if any(math.isfinite(v) for row in made for v in row.values(metric))],
                running,
                beside(lines, folder) if any(lines.values()) else [],
                [row for rows in lines.values() for row in rows] or made,
            )
        )
    return Report(name, whole.get("title", name), whole.get("source", ""), sheets, unfinished, broken)


def _commands(name: str, data: str, results: list[Result], experiment: str | None) -> str:
    """What was typed, where all runs know it; else what makes an experiment's runs, or one of these. Options of one's
    own are looked for in the folder of --config-dir, where there is one.
    """
    words = [f"experiment={experiment}", f"data={data}"] if experiment else []
    words = words or [f"config=outputs/{name}/{results[0].path.name}/config.yaml"]
    folders = [folder for folder in FOLDERS[1:] if (folder / "experiment" / f"{experiment}.yaml").exists()]
    flags = [f"--config-dir={folder}" for folder in folders]
    if mine := {group for result in results for group in result.config.get("options") or {}}:
        fit = [str(folder) for folder in folders if all((folder / f"{group}.py").exists() for group in mine)]
        words.append(f"options={[*fit, 'FOLDER'][0]}")
    report = [*report_command(), f"outputs/{name}", *flags]
    typed = list(dict.fromkeys(result.summary.get("command", "") for result in results if not result.unfinished))
    if not all(typed) or not 0 < len(typed) < MANY:
        typed = [shlex.join([*command(), *words, *flags])]
    return "\n".join([*typed, shlex.join(report)])


def _unfinished(result: Result) -> str:
    """`unfinished: NAME, iteration 1,954 of 8,000, train error 27.03 %, test error 27.82 %`."""
    if not result.records:
        return f"unfinished: {result.path.name}, no evaluation yet"
    errors = {key: value for key, value in result.records[-1].items() if key in ("train_error", "test_error")}
    words = [f"{key.replace('_', ' ')} {number(value)} %" for key, value in errors.items()]
    return ", ".join([f"unfinished: {result.path.name}", result.progress, *words])


def having(figure: dict[str, Any], rows: list[Row]) -> list[Row]:
    """The rows that a figure shows: those with the facts `of`, where its probe has measured `y` at the end; of a
    figure against a fact, those of its lines, and of pictures, theirs.
    """
    probe, _, key = figure["y"].partition(".")
    wanted = [row for row in rows if matches(row, figure.get("of", {}))]
    if "against" in figure:
        return [row for row in wanted if any(matches(row, facts) for facts in figure["lines"].values())]
    if "pictures" in figure:
        wanted = [row for row in wanted if any(matches(row, facts) for facts in figure["pictures"].values())]
        return [row for row in wanted if any(result.at_end(probe) for result in row.results)]
    wanted = [r for r in wanted if any(look.get(key) is not None for run in r.results for look in run.at_end(probe))]
    depths = {row.facts["depth"] for row in wanted}
    return wanted if "lines" not in figure or len(depths) > 1 else []  # over depth


def stem(figure: dict[str, Any]) -> str:
    """The name of an experiment's figure: `unit_variance` for `y: activations.unit_variance`, or its `name`."""
    return figure.get("name", figure["y"].partition(".")[2])


def verdicts(experiment: dict[str, Any], rows: list[Row]) -> list[Verdict]:
    """Each claim judged by itself, undecided where it selects several rows; published numbers in one line where no
    run can be compared with them.
    """
    at, published = experiment.get("published_at", {}), experiment.get("published", [])
    found = []
    for claim in experiment.get("claims", []):
        found += _judged({"claims": [claim]}, rows, claim["claim"])
    if published and not any(matches(row, at) for row in rows):
        numbers = f"{len(published)} published number{'s' * (len(published) > 1)}"
        return [*found, Verdict(numbers, "not run", f"they are compared only at {told(at)}")]
    for number in published:
        found += _judged({"published": [number], "published_at": at}, rows, told(number["of"]))
    return found


def missing(wanted: list[dict[str, Any]], seeds: list[int], rows: list[Row]) -> list[str]:
    """Rows that are `wanted` and have no finished run, and seeds that a row lacks, of `seeds` and of those that other
    rows have.
    """
    usual = {*seeds, *(result.summary["seed"] for row in rows for result in row.results)}
    lines = [f"{told(w)}: no finished run" for w in wanted if not any(matches(row, w) for row in rows)]
    for row in rows:
        absent = sorted(usual - {result.summary["seed"] for result in row.results})
        if absent:
            word = f"seed{'s' * (len(absent) > 1)} {', '.join(map(str, absent))}"
            lines.append(f"{row.label}: {len(row.results)} of {len(usual)} seeds; not there: {word}")
    return lines


def grid(sweeps: list[list[str]]) -> list[dict[str, Any]]:
    """The rows of sweeps as typed, each a list like `depth=20,56`, `skip=none`; seeds are left out, and what is no
    fact of a row: a recipe's schedule, and what a probe looks at.
    """
    found = []
    for sweep in sweeps:
        typed = [(word.partition("=")[0], swept(word)) for word in sweep]
        facts = [(k, values) for k, values in typed if not k.startswith(("seed", "probe", "recipe/schedule"))]
        axes = [[_facts(k, v) for v in values] for k, values in facts]
        found += [{k: v for facts in chosen for k, v in facts.items()} for chosen in itertools.product(*axes)]
    return found


def _facts(key: str, value: str) -> dict[str, Any]:
    """`weights` and `{depth:20}` are weights.depth=20; `recipe/optimizer=sgd` is that there is no other."""
    if key == "recipe/optimizer":
        return {OPTIMIZER: value if value != LATER[OPTIMIZER] else None}
    if not value.startswith("{"):
        return {key: _value(value)}
    pairs = [pair.split(":") for pair in value.strip("{}").split(",")]
    return {f"{key}.{inner.strip()}": _value(v.strip()) for inner, v in pairs}


def table(sheet: Sheet) -> list[list[str]]:
    """The sheet as cells, a heading line and a line a row; errors in %, of the last epoch unless `best` is said."""
    diverged = [sum(r.summary.get("status") == "diverged" for r in row.results) for row in sheet.rows]
    heading = ["row", "seeds"] + [
        "train error",
        "median",
        "test error",
        "median",
        "best epoch's test",
    ] * sheet.trained
    heading += ["parameters"] + [metric.rpartition(".")[2].replace("_", " ") for metric in sheet.metrics]
    heading += ["published test"] * bool(sheet.published) + ["diverged"] * any(diverged)
    lines = [heading]
    for row, gone in zip(sheet.rows, diverged, strict=True):
        cells = [row.label, str(len(row.results))]
        if sheet.trained:
            train, test = row.values("train_error"), row.values("test_error")
            best = [r.summary.get("best", {}).get("test_error") for r in row.results]
            best_mean = spread([math.inf if b is None else b for b in best])[0]
            cells += [mean(train), number(spread(train)[1])]
            cells += [mean(test), number(spread(test)[1]), number(best_mean)]
        cells.append(" / ".join(sorted({f"{r.summary.get('parameters', 0):,}" for r in row.results})))
        cells += [shown(row.values(metric), metric) for metric in sheet.metrics]
        if sheet.published:
            cells.append(", ".join(str(p["value"]) for p in sheet.published if matches(row, p["of"])))
        lines.append(cells + [str(gone)] * any(diverged))
    return lines


def best(lines: dict[str, str], rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of `beside` in an experiment's YAML, each line a name and what is typed for it: at each depth the one
    with the least training error, of a grid of rates, labelled with that name.
    """
    depths, found = sorted({row.facts["depth"] for row in rows}), {}
    for name, words in lines.items():
        (facts,) = grid([words.split()])
        chosen = [select(rows, facts | {"depth": depth, "best": "train_error"}) for depth in depths]
        label = name.replace(" ", NO_BREAK)
        found[name] = [replace(row, label=f"depth={row.facts['depth']} {label}") for row in chosen if row]
    return found


def beside(lines: dict[str, list[Row]], folder: Path) -> list[list[str]]:
    """The lines of `best` as cells under a heading: errors (%) at each depth, parameters: how many more than the
    first line's, of the deepest, and the time of a step. Dashes where there is no run.
    """
    depths = sorted({row.facts["depth"] for rows in lines.values() for row in rows})
    steps = json.loads((folder / STEPS).read_text()) if (folder / STEPS).exists() else {}
    metrics, sizes = ("train_error", "test_error"), {}
    heading = ["", "norm", "shortcut", *(f"{m.replace('_', ' ')}, {d} layers" for m in metrics for d in depths)]
    cells = []
    for name, inside in lines.items():
        at = {row.facts["depth"]: row for row in inside}
        has = ["–" if not inside else "no" if inside[0].facts.get(g) in NOTHING else "yes" for g in ("norm", "skip")]
        errors = [mean(at[d].values(metric)) if d in at else "–" for metric in metrics for d in depths]
        sizes[name] = at[depths[-1]].results[0].summary["parameters"] if depths[-1] in at else math.nan
        more = sizes[name] - next(iter(sizes.values()))
        cells.append([name, *has, *errors, "–" if math.isnan(more) else f"{more:+,}"])
        cells[-1].append(f"{steps[name]:.2f}" if name in steps else "–")
    return [[*heading, "parameters", "step"], *cells]


def about(sheet: Sheet) -> str:
    """What the numbers of the table are."""
    if not sheet.rows:
        return "no finished run yet"
    if not sheet.trained:
        return f"at initialisation, mean ± standard deviation over seeds{_measured(sheet)}"
    gone = any(result.summary.get("status") == "diverged" for result in sheet.results)
    counted = ", a diverged run counted as 100 %" if gone else ""
    return f"errors of the last epoch in %, mean ± standard deviation over seeds{counted}{_measured(sheet)}"


def _measured(sheet: Sheet) -> str:
    """`; nonconvex, basin: what probe loss_surface saw last`."""
    probes: defaultdict[str, list[str]] = defaultdict(list)
    for probe, _, key in (metric.rpartition(".") for metric in sheet.metrics):
        probes[probe].append(key.replace("_", " "))
    return "".join(f"; {', '.join(keys)}: what probe {probe} saw last" for probe, keys in probes.items() if probe)


def mean(values: list[float]) -> str:
    """`6.35 ± 0.12`: mean and standard deviation over the seeds that have a value; the deviation of several only."""
    middle, _, deviation = spread(values)
    return number(middle) + ("" if math.isnan(deviation) else f" ± {deviation:.2f}")


def number(value: float) -> str:
    """Two digits after the point, or a dash where all runs diverged."""
    return f"{value:.2f}" if math.isfinite(value) else "–"


def terminal(report: Report) -> str:
    """The report for a terminal: aligned columns, then verdicts, then what is missing."""
    lines = [f"{report.title} ({report.source})" if report.source else report.title]
    for sheet in report.sheets:
        lines += ["", f"{sheet.data}: {about(sheet)}", *_aligned(table(sheet))]
        lines += ["", *_aligned(sheet.beside)] if sheet.beside else []
        lines += [""] * bool(sheet.verdicts)
        lines += [f"  {v.word:13}{v.claim}\n{'':15}{v.because}" for v in sheet.verdicts]
        lines += ["", *(f"  missing: {line}" for line in sheet.missing)] if sheet.missing else []
    lines += ["", *(f"  {line}" for line in report.missing)] if report.missing else []
    return "\n".join(lines if report.sheets else [*lines, "  no finished run yet"])


def markdown(report: Report) -> str:
    """The report as Markdown; its figures are the files beside it."""
    parts = [f"# {_escaped(report.title)}", *([report.source] if report.source else [])]
    for sheet in report.sheets:
        parts.append(f"## {sheet.data}")
        parts.append(f"```\n{sheet.commands}\n```")
        parts += [f"![{caption}]({name}.svg)" for name, caption in sheet.captions.items()]
        parts.append(f"{about(sheet).capitalize()}.")
        parts.append(_piped(table(sheet)))
        parts += ["### Side by side", f"{BESIDE}.", _piped(sheet.beside)] if sheet.beside else []
        judged = [f"- **{v.word}**: {_escaped(v.claim)} ({_escaped(v.because)})" for v in sheet.verdicts]
        parts += ["### Verdicts", "\n".join(judged)] if judged else []
        parts += ["### Missing", "\n".join(f"- {_escaped(m)}" for m in sheet.missing)] if sheet.missing else []
        parts.append(f"Made with {sheet.versions}.")
    if report.missing:
        parts += ["## Unfinished and broken runs", "\n".join(f"- {_escaped(line)}" for line in report.missing)]
    return "\n\n".join(parts) + "\n"


def _aligned(cells: list[list[str]]) -> list[str]:
    """A table for a terminal."""
    first, *others = (max(map(len, column)) for column in zip(*cells, strict=True))
    words = [[line[0].ljust(first), *map(str.rjust, line[1:], others)] for line in cells]
    return ["  " + "  ".join(line).rstrip() for line in words]


def _piped(cells: list[list[str]]) -> str:
    """A table in Markdown."""
    heading, *lines = [[_escaped(cell) for cell in line] for line in cells]
    rule = ["---", *["---:"] * (len(heading) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [heading, rule, *lines])


def _judged(experiment: dict[str, Any], rows: list[Row], claim: str) -> list[Verdict]:
    try:
        return judge(experiment, rows)
    except ValueError as error:
        return [Verdict(claim, "undecided", str(error))]


def _value(text: str) -> Any:
    """A value as typed: a number, a truth value, null, a list of these, or a word."""
    if text.startswith("["):
        return [_value(part) for part in text.strip("[]").split(",")]
    words = {"true": True, "false": None, "null": None}
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return words.get(text, text)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
