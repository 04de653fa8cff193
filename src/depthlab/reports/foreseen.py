"""What is known of an experiment's claims and figures before its first run: what they select, what is measured."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from depthlab.config import experiment_rows
from depthlab.errors import Mistake, hint, one_of
from depthlab.experiment import Facts, Ordering, Published
from depthlab.reports.table import grid
from depthlab.reports.verdict import hold, told

USUAL = {"claims": Ordering.metric, "published": Published.metric}
"""The metric of a claim, and of a published number, that names none."""


def check(
    name: str,
    experiment: dict[str, Any],
    data: str,
    runs: Sequence[Facts],
    *,
    probes: set[str],
    metrics: set[str] | None,
    typed: set[str],
) -> None:
    """Raises Mistake, in a line that begins with `experiment=NAME`, on what no run will have: a fact that selects, a
    probe, a metric of the loop.

    `runs`: the facts of the runs on this data set. What the experiment has on another one alone counts, too, and what
    was `typed` instead of the experiment's own is not asked for. `metrics`: the loop's; None: not known.
    """
    scales = experiment.get("scales", {})
    others = [scale for scale in (*scales, "") if scale != (data if data in scales else "")]
    elsewhere = grid([row for scale in others for row in experiment_rows(experiment, scale)])
    try:
        for path, wanted in _selectors(experiment):
            asked = {k: v for k, v in wanted.items() if k != "best" and not _typed(k, typed)}
            _select(path, asked, runs, elsewhere)
        for path, wanted in _sides(experiment):
            _select_one(path, wanted, [{k: v for k, v in row.items() if not _typed(k, typed)} for row in runs])
        for key in (key for key in experiment.get("published_at", {}) if not _typed(key, typed)):
            _known("published_at", key, runs, elsewhere)
        for path, metric in _metrics(experiment):
            probe, point, _ = metric.rpartition(".")
            if point and probe not in probes and "probe" not in typed:
                raise Mistake(f"{path}={metric}: {_unchosen(probe, probes)}")
            if not point and metrics is not None and metric not in metrics:
                raise one_of(path, metric, sorted(metrics))
    except Mistake as mistake:
        raise Mistake(f"experiment={name}: {mistake}") from None


def _selectors(experiment: dict[str, Any]) -> Iterator[tuple[str, Facts]]:
    """All that selects rows, and where it stands."""
    for name, words in experiment.get("beside", {}).items():
        line, *more = grid([words.split()])
        if more:
            raise Mistake(f"beside.{name}={words}: one value of each option, as it is one line of a table")
        yield f"beside.{name}", line
    for key in ("claims", "published", "figures"):
        for place, part in enumerate(experiment.get(key, [])):
            path = f"{key}[{place}]"
            yield from ((f"{path}.{k}", part[k]) for k in ("higher", "lower", "of") if k in part)
            yield from ((f"{path}.equals", facts) for facts in [part.get("equals")] if isinstance(facts, dict))
            yield from ((f"{path}.pictures.{k}", facts) for k, facts in part.get("pictures", {}).items())
            yield from (
                (f"{path}.lines.{k}", facts) for k, facts in part.get("lines", {}).items() if "against" in part
            )
            yield from ((f"{path}.theory[{i}].of", law.get("of", {})) for i, law in enumerate(part.get("theory", [])))


def _sides(experiment: dict[str, Any]) -> Iterator[tuple[str, Facts]]:
    """What has to be one row: the sides of a claim that compares, or holds one against a number."""
    for place, claim in enumerate(experiment.get("claims", [])):
        sides = {k: claim[k] for k in ("higher", "lower", "equals", "of") if isinstance(claim.get(k), dict)}
        if "crosses" not in claim:  # which is of all depths
            yield from ((f"claims[{place}].{k}", facts) for k, facts in sides.items() if "best" not in facts)


def _metrics(experiment: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """All that has to be measured, and where it stands."""
    for key, usual in USUAL.items():
        for place, part in enumerate(experiment.get(key, [])):
            yield f"{key}[{place}].metric", part.get("metric", usual)
            if "predicted" in part:
                yield f"{key}[{place}].predicted.metric", part["predicted"]["metric"]
    for place, figure in enumerate(experiment.get("figures", [])):
        yield f"figures[{place}].y", figure["y"]
        for name, line in figure.get("lines", {}).items() if "against" not in figure else ():
            yield f"figures[{place}].lines.{name}.y", line["y"]


def _typed(key: str, typed: set[str]) -> bool:
    """Whether a key, or the group that it belongs to, was typed, or what replaces it; a data set brings its network
    and recipe.
    """
    if key == "recipe.iterations" and "epochs" in typed:
        return True
    return any(key == word or key.startswith(f"{word}.") or word.startswith(f"{key}.") for word in typed)


def _select(path: str, asked: Facts, runs: Sequence[Facts], elsewhere: Sequence[Facts]) -> None:
    """Raises Mistake where no row has these facts; one elsewhere that says some of them may have the others."""
    for key, value in asked.items():
        _known(path, key, runs, elsewhere)
        if not any(hold(row, {key: value}) for row in [*runs, *(row for row in elsewhere if key in row)]):
            values = {repr(row[key]): row[key] for row in [*runs, *elsewhere] if row.get(key) is not None}
            raise one_of(f"{path}.{key}", value, values.values())
    parts = [{key: asked[key] for key in asked if key in row} or asked for row in elsewhere]
    if not any(hold(row, asked) for row in runs) and not any(map(hold, elsewhere, parts)):
        raise Mistake(f"{path}: no run is {told(asked)}")


def _select_one(path: str, asked: Facts, runs: Sequence[Facts]) -> None:
    """Raises Mistake where a side of a claim is several rows."""
    found = {repr({k: v for k, v in row.items() if k != "seed"}): row for row in runs if hold(row, asked)}
    if len(found) > 1:
        rows = list(found.values())
        keys = dict.fromkeys(key for row in rows for key in row if key != "seed" and not key.endswith(".name"))
        differ = [key for key in keys if len({repr(row.get(key)) for row in rows}) > 1]
        raise Mistake(f"{path}: {told(asked)} is {len(found)} rows; name one by {', '.join(differ)}, or best: METRIC")


def _known(path: str, key: str, runs: Sequence[Facts], elsewhere: Sequence[Facts]) -> None:
    known = dict.fromkeys(key for row in [*runs, *elsewhere] for key in row)
    if key not in known:
        differ = [k for k in known if len({repr(row.get(k)) for row in [*runs, *elsewhere]}) > 1 and k != "seed"]
        near = get_close_matches(key, known, 1)
        raise Mistake(f"{path}.{key}: no run has it; {hint(key, dict.fromkeys([*near, *differ]))}")


def _unchosen(probe: str, chosen: set[str]) -> str:
    if chosen:
        return f"measured by a probe that is not chosen; {hint(probe, sorted(chosen))}"
    return f"measured by a probe that is not chosen; defaults: [override /probe: [{probe}]] chooses it"
