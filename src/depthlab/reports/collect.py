"""Run directories read back: the results of a folder, and its rows, the runs that differ in nothing but the seed."""

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from depthlab.config import chosen, flat, from_yaml, identity
from depthlab.errors import Mistake, as_typed, hint
from depthlab.run.directory import Record, Run

NO_BREAK = "\N{NO-BREAK SPACE}"
"""Between the words of a row's name, which is one word of its label."""
ALPHA = 0.05
"""What chance alone would give with at most this probability is held to be so."""


@dataclass(frozen=True)
class Result:
    """One run: finished, diverged or, as far as it came, unfinished."""

    path: Path
    config: dict[str, Any]
    summary: Record
    records: list[Record]
    probes: dict[str, list[Record]] = field(default_factory=dict)
    """What each probe measured, with its last settings."""

    @property
    def unfinished(self) -> bool:
        """Whether it has not come to its end."""
        return self.summary["status"] == "unfinished"

    @property
    def progress(self) -> str:
        """Where an unfinished run stands: `iteration 1,954 of 8,000`."""
        last, recipe = self.records[-1], self.config["recipe"]
        epochs = self.config.get("epochs")
        steps = recipe["iterations"] if epochs is None else math.ceil(epochs * last["step"] / (last["epoch"] or 1))
        return f"iteration {last['step']:,} of {steps:,}"

    @property
    def facts(self) -> dict[str, Any]:
        """What can be selected: what decides the result (`depth`, `skip.scale`) and the chosen options (`skip`)."""
        return identity(self.config) | self.summary["choices"]

    def at_end(self, probe: str) -> list[Record]:
        """What a probe measured at the run's last iteration, in a list that is empty if it did not look there."""
        return [r for r in self.probes.get(probe, []) if r.get("step") == self.summary.get("iterations")]

    def value(self, metric: str) -> float:
        """A metric of the last epoch, errors in %, or a probe's last number, `probe.key`; nan if it was not measured.
        Of a diverged run an error is 100 %, an intersection over union 0, a loss or a probe's number infinite.
        """
        probe, _, key = metric.rpartition(".")
        if self.summary["status"] == "diverged":
            return math.inf if probe else {"error": 100.0, "iou": 0.0}.get(metric.rpartition("_")[2], math.inf)
        looks = self.at_end(probe)
        value = looks[-1].get(key) if looks else None if probe else self.summary["final"].get(metric)
        return math.nan if value is None else value

    def bounds(self, metric: str) -> tuple[float, float]:
        """What a metric lies between: itself, but for what a probe would have measured of a diverged run, which
        could be anything.
        """
        value = self.value(metric)
        return (-math.inf, math.inf) if "." in metric and math.isinf(value) else (value, value)


@dataclass(frozen=True)
class Row:
    """The runs that differ in nothing but the seed, which are one result."""

    label: str
    facts: dict[str, Any]
    results: list[Result]

    def values(self, metric: str) -> list[float]:
        """The metric of each seed."""
        return [result.value(metric) for result in self.results]

    def bounds(self, metric: str) -> tuple[list[float], list[float]]:
        """Of each seed, the least that the metric can be, and the most."""
        lows, highs = zip(*(result.bounds(metric) for result in self.results), strict=True)
        return list(lows), list(highs)

    def only(self, finished: bool) -> "Row | None":
        """The row of its runs that are finished, or of those that are not; None where there are none."""
        results = [result for result in self.results if result.unfinished != finished]
        return replace(self, results=results) if results else None


@dataclass(frozen=True)
class Crossing(Result):
    """The runs of a seed that differ in their depth, as one result: a metric's value is the depth at which it crosses
    a level.
    """

    by_depth: list[Result] = field(default_factory=list)
    level: float = 0.0
    seeds: list[list[Result]] = field(default_factory=list)
    """The runs by depth of all seeds, this one among them."""

    def value(self, metric: str) -> float:
        """The depth, between the two where it first leaves the side on which it begins, on a straight line; where it
        does not, the deepest, or the shallowest where it moves away from the level. Infinite where a run diverged
        before, nan where it was not measured before.
        """
        return self._found(metric)[0]

    def bounds(self, metric: str) -> tuple[float, float]:
        """The depth at which it crosses, twice; where it does not, one end, beyond which the crossing lies: the
        deepest if over all seeds it moves towards the level, else the shallowest. It could lie anywhere where the
        seeds do not decide how it moves, or a run diverged.
        """
        return self._found(metric)[1:]

    def _found(self, metric: str) -> tuple[float, float, float]:
        points = [(result.config["depth"], result.value(metric) - self.level) for result in self.by_depth]
        for (shallow, before), (deep, after) in pairwise(points):
            if math.isinf(before) or math.isinf(after):
                return math.inf, -math.inf, math.inf
            if math.isnan(before) or math.isnan(after):
                return math.nan, math.nan, math.nan
            if before * after <= 0 and before != after:
                depth = shallow + (deep - shallow) * before / (before - after)
                return depth, depth, depth
        (shallowest, first), (deepest, _) = points[0], points[-1]
        moves = [*filter(math.isfinite, (runs[-1].value(metric) - runs[0].value(metric) for runs in self.seeds))]
        towards = first * sum(moves) <= 0
        if len(moves) > 1 and abs(statistics.mean(moves)) <= slack(moves):
            return deepest if towards else shallowest, -math.inf, math.inf
        return (deepest, deepest, math.inf) if towards else (shallowest, -math.inf, shallowest)


def crossings(rows: list[Row], level: float) -> list[Row]:
    """Rows that differ in their depth as one, whose values are the depths at which a metric crosses a level."""
    kinds: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        kinds[repr(sorted((k, repr(v)) for k, v in row.facts.items() if k not in ("depth", "seed")))].append(row)
    made = []
    for kind in kinds.values():
        by_seed: defaultdict[int, list[Result]] = defaultdict(list)
        for row in sorted(kind, key=lambda row: row.facts["depth"]):
            for result in row.results:
                by_seed[result.summary["seed"]].append(result)
        label = " ".join(word for word in kind[0].label.split(" ") if not word.startswith("depth="))
        whole = [runs for runs in by_seed.values() if len(runs) == len(kind) > 1]
        facts = {k: v for k, v in kind[0].facts.items() if k != "depth"}
        results = [Crossing(r[0].path, r[0].config, r[0].summary, [], {}, r, level, whole) for r in whole]
        made += [Row(label, facts, list(results))] if results else []
    return made


def load(folder: Path) -> tuple[list[Result], list[Result], list[str]]:
    """The finished runs in a folder; the unfinished ones; a line about each broken one."""
    results, unfinished, broken = [], [], []
    seen: dict[str, str] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        run = Run(path)
        if not any(file.exists() for file in (run.config, run.metrics, run.summary)):
            continue
        try:
            summary, text = run.finished(), run.config.read_text()
            config = from_yaml(text)
            if summary is None:
                unfinished.append(_so_far(run, config, chosen(config, text)))
                continue
            probes = {name: _alike(run.records(name)) for name in run.probes()}
            result = Result(path, config, summary, run.curves(summary), probes)
            assert_whole(result)
            key = repr(sorted((identity(config) | {"data": summary["choices"]["data"]}).items()))
            if (first := seen.setdefault(key, path.name)) != path.name:
                raise ValueError(f"the same run as {first}")
            results.append(result)
        except (Mistake, OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            broken.append(f"{path.name}: {' '.join(str(error).split()) or type(error).__name__}")
    return results, unfinished, broken


def _so_far(run: Run, config: dict[str, Any], choices: dict[str, str]) -> Result:
    """An unfinished run: its curve ends at its last evaluation."""
    summary = {"status": "unfinished", "seed": config["seed"], "choices": choices, "final": {}}
    return Result(run.path, config, summary, run.records())


def _alike(records: list[Record]) -> list[Record]:
    """The records with the last one's settings, in their order in the run."""
    return sorted((r for r in records if r["settings"] == records[-1]["settings"]), key=lambda r: r["step"])


def assert_whole(result: Result) -> None:
    """Raises KeyError, TypeError or ValueError if something that the report needs is not there."""
    _ = result.facts["depth"], result.summary["final"]["test_error"], result.summary["seed"]
    if not result.records:
        raise ValueError("metrics.jsonl is empty")


def rows(results: list[Result]) -> list[Row]:
    """Results by everything but the seed, in the order of their facts, labelled by what tells them apart."""
    groups: defaultdict[str, list[Result]] = defaultdict(list)
    for result in results:
        key = identity(result.config) | {"data": result.summary["choices"]["data"]}
        groups[repr(sorted((k, v) for k, v in key.items() if k != "seed"))].append(result)
    facts = [group[0].facts for group in groups.values()]
    told = telling(facts)
    made = [
        Row(_label(f | _false(group[0].config), told), f, sorted(group, key=lambda r: r.summary["seed"]))
        for f, group in zip(facts, groups.values(), strict=True)
    ]
    return sorted(made, key=lambda row: [(str(type(row.facts.get(k))), row.facts.get(k)) for k in told])


def telling(facts: list[dict[str, Any]]) -> list[str]:
    """The keys that tell rows apart; one that follows from its group's chosen option is left out, and of the recipe's
    what follows from any other key, as the rate of a warm-up from the optimiser.
    """
    differing = [key for key in _keys(facts) if len({repr(f.get(key)) for f in facts}) > 1 and key != "seed"]
    told = []
    for key in differing:
        parent = key.rpartition(".")[0] or key
        group = f"{parent}.name" if "." in parent else key.removeprefix("options.") if parent == "options" else parent
        group = "network" if key == "block" else group
        by_choice: defaultdict[Any, set[str]] = defaultdict(set)
        for f in facts:
            by_choice[f.get(group)].add(repr(f.get(key)))
        if key == group or any(len(values) > 1 for values in by_choice.values()):
            told.append(key)
    followed = [
        key for key in told if not key.startswith("recipe.") or not any(_follows(key, k, facts) for k in told)
    ]
    return sorted(followed, key=lambda key: ("." in key, key != "depth", key))


def _follows(key: str, other: str, facts: list[dict[str, Any]]) -> bool:
    """Whether each value of `other`, which is no number of the recipe's, goes with one value of `key`."""
    if other == key or key.endswith(".name") or (other.startswith("recipe.") and not other.endswith(".name")):
        return False
    pairs = {(repr(f.get(other)), repr(f.get(key))) for f in facts}
    return len(pairs) == len({value for value, _ in pairs})


def instead(metric: str, rows: list[Row]) -> str:
    """What to write instead of a `probe.key` that a probe does not measure: `; did you mean ...? (allowed: ...)`;
    empty where it does, or where it has not looked.
    """
    probe, _, key = metric.partition(".")
    looks = [look for row in rows for result in row.results for look in result.probes.get(probe, [])]
    keys = sorted({key for look in looks for key in look} - {"step", "epoch", "rate", "settings"})
    return "" if key in keys or not keys else f"; {hint(key, keys)}"


def spread(values: list[float]) -> tuple[float, float, float]:
    """Mean, median and standard deviation (nan for one value) over seeds."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return math.inf, math.inf, math.nan
    deviation = statistics.stdev(finite) if len(finite) > 1 else math.nan
    return statistics.mean(finite), statistics.median(finite), deviation


def slack(values: list[float]) -> float:
    """How far below, or above, their mean that of all seeds may lie, by Student's t at 5 %, one-sided."""
    from scipy.stats import t

    return float(t.ppf(1 - ALPHA, len(values) - 1)) * spread(values)[2] / math.sqrt(len(values))


def _keys(facts: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for f in facts for key in f))


def _false(config: dict[str, Any]) -> dict[str, Any]:
    """What is switched off, which is no fact."""
    return {key: value for key, value in flat(config).items() if value is False}


def _label(facts: dict[str, Any], told: list[str]) -> str:
    shown = [key for key in told or ("depth", "skip", "norm") if facts.get(key) is not None]  # one alone: its name
    shown = shown or told  # a row without a name is none
    return " ".join(f"{key}={as_typed(facts.get(key))}" for key in shown)
