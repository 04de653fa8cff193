"""Claims judged from run directories alone: reproduced, contradicted, undecided, not run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from depthlab.config import LATER
from depthlab.errors import as_typed
from depthlab.experiment import Ordering, Published
from depthlab.reports.collect import ALPHA, Row, crossings, instead, slack, spread

Bounds = tuple[list[float], list[float]]
"""Of each seed the least that a number can be, and the most: the number twice, where it is known."""


@dataclass(frozen=True)
class Verdict:
    """What became of a claim, and the statistic and seeds that it rests on."""

    claim: str
    word: str
    because: str


def judge(experiment: dict[str, Any], rows: list[Row]) -> list[Verdict]:
    """Each claim of an experiment: an ordering (`higher`, `lower`), a value (`of`; `equals` and `within`, or
    `least`, `most`), or a published number (`of`, `within`). `crosses`: the claim is about the depth at which its
    metric crosses this level, and `predicted`, with a `metric` and a level, is another such depth of the same runs,
    met in the mean over seeds. `paired`: an ordering of the same seeds. Of a seed whose value is not known, the bound
    that is worst for the verdict counts.

    A published number is judged only where the runs are `published_at`, its data and recipe.
    """
    verdicts = [(_ordering if "higher" in c else _value)(c, rows) for c in experiment.get("claims", [])]
    at = experiment.get("published_at", {})
    there = [row for row in rows if matches(row, at)]
    return verdicts + [_published(number, there) for number in experiment.get("published", [])]


def select(rows: list[Row], wanted: dict[str, Any]) -> Row | None:
    """The one row with these facts, None if there is none; ValueError if there are several, but with `best: METRIC`
    the one of them with the least mean of that metric, as of a grid of rates, and of equal ones with the least
    training loss; first with the fewest seeds of which it is not known, as they diverged.
    """
    wanted = dict(wanted)
    metric = wanted.pop("best", None)
    found = [row for row in rows if matches(row, wanted)]
    if metric and found:
        lost = {row.label: sum(not math.isfinite(value) for value in row.values(metric)) for row in found}
        measures = (metric, "train_loss")
        return min(found, key=lambda row: (lost[row.label], *(spread(row.values(part))[0] for part in measures)))
    if len(found) > 1:
        raise ValueError(f"{told(wanted)} selects {len(found)} rows: {', '.join(row.label for row in found)}")
    return found[0] if found else None


def matches(row: Row, wanted: dict[str, Any]) -> bool:
    """Whether a row has these facts."""
    return hold(row.facts, wanted)


def hold(facts: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether what is known of a run holds these; false is a value that does nothing, which none holds."""
    return all(facts.get(key) == (None if value is False else value) for key, value in wanted.items())


def told(wanted: dict[str, Any]) -> str:
    """Facts as a person types them: `depth=56 skip=none`."""
    return " ".join(
        f"{key}={as_typed(LATER.get(key) if v is None else v)}" for key, v in wanted.items() if key != "best"
    )


def _ordering(claim: dict[str, Any], rows: list[Row]) -> Verdict:
    metric, text = claim.get("metric", Ordering.metric), claim["claim"]
    rows = _asked(claim, rows)
    high, low = select(rows, claim["higher"]), select(rows, claim["lower"])
    if high is None or low is None:
        missing = [told(claim[side]) for side, row in (("higher", high), ("lower", low)) if row is None]
        return Verdict(text, "not run", f"no run of {' and of '.join(missing)}")
    if paired := claim.get("paired", False):
        high, low = _same_seeds(high, low)
        if not high.results:
            return Verdict(text, "not run", "no seed in common")
    a, b = high.values(metric), low.values(metric)
    if any(map(math.isnan, a + b)):
        return Verdict(text, "not run", f"{metric} was not measured{instead(metric, rows)}")
    compared = f"{metric} {shown(a, metric)} against {shown(b, metric)}"
    (a_least, a_most), (b_least, b_most) = high.bounds(metric), low.bounds(metric)
    above, below = chance(a_least, b_most, paired=paired), chance(b_least, a_most, paired=paired)
    word = "reproduced" if above <= ALPHA else "contradicted" if below <= ALPHA else "undecided"
    p = f"p = {above:.3g}" + f", {below:.3g} for the opposite" * (below < above)
    seeds = f"{len(a)} pairs" if paired else f"{len(a)} and {len(b)} seeds"
    if (least := 1 / (2 ** len(a) if paired else math.comb(len(a) + len(b), len(a)))) > ALPHA:
        seeds += f", too few to decide anything (p is at least {least:.2g})"
    if "crosses" in claim:
        seeds += _beyond(high.bounds(metric), low.bounds(metric))
    elif lost := sum(map(math.isinf, a + b)):
        seeds += f"; {lost} seed{'s' * (lost > 1)} diverged, " + (
            "of which it is not known" if "." in metric else "which counts as infinite"
        )
    return Verdict(text, word, f"{compared}; permutation test, {p}, {seeds}")


def chance(higher: list[float], lower: list[float], *, paired: bool = False) -> float:
    """The probability that a random split of the pooled values has a mean difference at least as large; `paired`:
    that random signs of the pairs' differences do.
    """
    from scipy.stats import permutation_test

    if min(len(higher), len(lower)) < 2:
        return 1.0
    size = max((abs(value) for value in (*higher, *lower) if math.isfinite(value)), default=0.0) or 1.0
    samples = [[max(-1e3, min(value / size, 1e3)) for value in part] for part in (higher, lower)]  # inf - inf is nan

    def difference(a: Any, b: Any) -> float:  # a tie is one, however it was summed
        return round(sum(a) / len(a) - sum(b) / len(b), 9)

    kind = "samples" if paired else "independent"
    options: dict[str, Any] = {"permutation_type": kind, "alternative": "greater", "n_resamples": 20_000, "rng": 0}
    found = permutation_test(samples, difference, vectorized=False, **options)
    return float(found.pvalue)


def _published(number: dict[str, Any], rows: list[Row]) -> Verdict:
    metric = number.get("metric", Published.metric)
    low, high = number["within"]
    text = f"{told(number['of'])}: {metric} {number['value']} ({low} to {high})"
    row = select(rows, number["of"])
    if row is None:
        return Verdict(text, "not run", "no run of it with the paper's data and recipe")
    values = row.values(metric)
    if unknown := _unknown(text, metric, values, rows):
        return unknown
    n = len(values)
    because = f"{shown(values, metric)}, median {spread(values)[1]:.2f}, {n} seed{'s' * (n > 1)}"
    there = low <= spread(values)[0] <= high  # the interval is that of single runs, and so one can be in it
    return Verdict(text, "reproduced" if there else _inside((values, values), low, high), because)


def _inside(bounds: Bounds, low: float, high: float) -> str:
    """The word for a mean that should lie in an interval, by Student's t of the seeds; one seed decides nothing, and
    of a seed that lies between bounds the worse one counts.
    """
    if len(bounds[0]) < 2:
        return "undecided"
    (least, least_slack), (most, most_slack) = (
        (spread(side)[0], slack(side)) if all(map(math.isfinite, side)) else (unknown, 0.0)
        for side, unknown in zip(bounds, (-math.inf, math.inf), strict=True)
    )
    if low <= least - least_slack and most + most_slack <= high:
        return "reproduced"
    return "contradicted" if least - least_slack > high or most + most_slack < low else "undecided"


def _value(claim: dict[str, Any], rows: list[Row]) -> Verdict:
    """A metric against a number or another row's, where the claim says which differences are none (`equals`,
    `within`), or against bounds (`least`, `most`).
    """
    metric, text, equals = claim["metric"], claim["claim"], claim.get("equals")
    if "predicted" in claim:
        return _predicted(claim, rows)
    rows = _asked(claim, rows)
    wanted = [claim["of"], *([dict(equals)] if isinstance(equals, Mapping) else [])]
    found = [select(rows, facts) for facts in wanted]
    for facts, row in zip(wanted, found, strict=True):
        if row is None:
            return Verdict(text, "not run", f"no run of {told(facts)}")
    there = [row for row in found if row]
    if len(there) > 1:  # seed by seed: no difference makes up for another
        there = [*_same_seeds(*there)]
        if not there[0].results:
            return Verdict(text, "not run", "no seed in common")
    values, *others = [row.values(metric) for row in there]
    if unknown := _unknown(text, metric, [v for seeds in (values, *others) for v in seeds], rows):
        return unknown
    low, high = claim.get("least", -math.inf), claim.get("most", math.inf)
    against = " and ".join(f"at {side} {claim[side]:g}" for side in ("least", "most") if side in claim)
    bounds = there[0].bounds(metric)
    if others:
        values = [a - b for a, b in zip(values, *others, strict=True)]
        bounds = _less(bounds, there[1].bounds(metric))
        metric, equals = f"difference in {metric}", 0.0
    if equals is not None:
        low, high = equals - claim["within"], equals + claim["within"]
        against = f"{equals:.5g} (to within {claim['within']:g})"
    word = _inside(bounds, low, high)
    if others and word == "reproduced" and not all(low <= value <= high for value in values):
        word = "undecided"
    seeds = f"{len(values)} seeds" if len(values) > 1 else "1 seed, which decides nothing"
    return Verdict(text, word, f"{metric} {shown(values, metric)} against {against}, {seeds}{_beyond(bounds)}")


def _unknown(text: str, metric: str, values: list[float], rows: list[Row]) -> Verdict | None:
    """The verdict where a seed has no such number; None where all have."""
    if any(map(math.isnan, values)):
        return Verdict(text, "not run", f"{metric} was not measured, or is no number{instead(metric, rows)}")
    if gone := sum(map(math.isinf, values)):
        return Verdict(text, "undecided", f"{metric}: {gone} seed{'s' * (gone > 1)} diverged")
    return None


def _same_seeds(*rows: Row) -> tuple[Row, Row]:
    """Two rows, of each the seeds that both have, in their order."""
    of_one, of_two = ({result.summary["seed"]: result for result in row.results} for row in rows)
    shared = sorted(of_one.keys() & of_two.keys())
    one, two = (replace(row, results=[of[s] for s in shared]) for row, of in zip(rows, (of_one, of_two), strict=True))
    return one, two


def _less(one: Bounds, two: Bounds) -> Bounds:
    """What the differences between two numbers lie between, seed by seed."""
    (low, high), (other_low, other_high) = one, two
    least, most = zip(low, other_high, strict=True), zip(high, other_low, strict=True)
    return [a - b for a, b in least], [a - b for a, b in most]


def _beyond(*parts: Bounds) -> str:
    """How many depths are not known: at which no run is, or of which the runs say nothing."""
    found = [pair for lows, highs in parts for pair in zip(lows, highs, strict=True)]
    nothing = sum(math.isinf(low) and math.isinf(high) for low, high in found)
    count = sum(low != high for low, high in found) - nothing
    told = f"; {count} value{'s' * (count > 1)} beyond the depths that were run" * (count > 0)
    return told + f"; {nothing} could be anywhere" * (nothing > 0)


def _asked(claim: dict[str, Any], rows: list[Row]) -> list[Row]:
    return crossings(rows, claim["crosses"]) if "crosses" in claim else rows


def _predicted(claim: dict[str, Any], rows: list[Row]) -> Verdict:
    """The mean over seeds of the difference between a measured depth and the predicted one, within bounds."""
    sides = [(side["metric"], select(_asked(side, rows), claim["of"])) for side in (claim, claim["predicted"])]
    values = [[] if row is None else row.values(metric) for metric, row in sides]
    measured, predicted = values
    if not measured or any(map(math.isnan, measured + predicted)):
        return Verdict(claim["claim"], "not run", f"no run of {told(claim['of'])} at all depths")
    bounds = [row.bounds(metric) for metric, row in sides if row]
    word = _inside(_less(*bounds), -claim["within"], claim["within"])
    depths = f"{shown(measured, '')} layers measured, {shown(predicted, '')} predicted"
    seeds = f"(to within {claim['within']:g}), {len(measured)} seeds{_beyond(*bounds)}"
    return Verdict(claim["claim"], word, f"{depths} {seeds}")


def shown(values: list[float], metric: str) -> str:
    """Mean ± standard deviation: what is in % with two digits after the point, others with four that count."""
    mean, _, deviation = spread(values)
    if not math.isfinite(mean):
        return "–"
    wide, narrow = (".2f", ".2f") if metric.endswith(("_error", "_iou")) else (".4g", ".2g")
    return f"{mean:{wide}}" if math.isnan(deviation) else f"{mean:{wide}} ± {deviation:{narrow}}"
