"""Claims judged from run directories alone: reproduced, contradicted, undecided, not run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from depthlab.config import LATER
from depthlab.experiment import Ordering, Published
from depthlab.reports.collect import Row, as_typed, crossings, instead, spread

ALPHA = 0.05
"""An ordering holds if chance alone would give it with at most this probability."""
SPREAD = 2.0
"""A published number is met by a mean within so many standard errors of its interval."""


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
    met in the mean over seeds. `paired`: an ordering of the same seeds.

    A published number is judged only where the runs are `published_at`, its data and recipe.
    """
    verdicts = [(_ordering if "higher" in c else _value)(c, rows) for c in experiment.get("claims", [])]
    at = experiment.get("published_at", {})
    there = [row for row in rows if matches(row, at)]
    return verdicts + [_published(number, there) for number in experiment.get("published", [])]


def select(rows: list[Row], wanted: dict[str, Any]) -> Row | None:
    """The one row with these facts, None if there is none; ValueError if there are several, but with `best: METRIC`
    the one of them with the least mean of that metric, as of a grid of rates.
    """
    wanted = dict(wanted)
    metric = wanted.pop("best", None)
    found = [row for row in rows if matches(row, wanted)]
    if metric and found:
        return min(found, key=lambda row: spread(row.values(metric))[0])
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
    a, b = high.values(metric), low.values(metric)
    if paired := claim.get("paired", False):
        a, b = _same_seeds(high, low, metric)
        if not a:
            return Verdict(text, "not run", "no seed in common")
    if any(map(math.isnan, a + b)):
        return Verdict(text, "not run", f"{metric} was not measured{instead(metric, rows)}")
    compared = f"{metric} {shown(a, metric)} against {shown(b, metric)}"
    above, below = chance(a, b, paired=paired), chance(b, a, paired=paired)
    word = "reproduced" if above <= ALPHA else "contradicted" if below <= ALPHA else "undecided"
    seeds = f"{len(a)} pairs" if paired else f"{len(a)} and {len(b)} seeds"
    if (least := 1 / (2 ** len(a) if paired else math.comb(len(a) + len(b), len(a)))) > ALPHA:
        seeds += f", too few to decide anything (p is at least {least:.2g})"
    return Verdict(text, word, f"{compared}; permutation test, p = {min(above, below):.3g}, {seeds}")


def chance(higher: list[float], lower: list[float], *, paired: bool = False) -> float:
    """The probability that a random split of the pooled values has a mean difference at least as large; `paired`:
    that random signs of the pairs' differences do.
    """
    from scipy.stats import permutation_test

    samples = [[min(value, 1e9) for value in values] for values in (higher, lower)]  # infinity has no difference
    if min(len(higher), len(lower)) < 2:
        return 1.0

    def difference(a: Any, b: Any) -> float:
        return sum(a) / len(a) - sum(b) / len(b)

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
    n = len(values)
    because = f"{shown(values, metric)}, median {spread(values)[1]:.2f}, {n} seed{'s' * (n > 1)}"
    return Verdict(text, _inside(values, low, high), because)


def _inside(values: list[float], low: float, high: float) -> str:
    """The word for a mean that should lie in an interval; outside, one seed decides nothing."""
    mean, _, deviation = spread(values)
    if low <= mean <= high:
        return "reproduced"
    slack = SPREAD * deviation / math.sqrt(len(values))
    return "contradicted" if not (math.isnan(slack) or low - slack <= mean <= high + slack) else "undecided"


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
    values, *others = [row.values(metric) for row in found if row]
    if any(map(math.isnan, [v for seeds in (values, *others) for v in seeds])):
        return Verdict(text, "not run", f"{metric} was not measured, or is no number{instead(metric, rows)}")
    gone = sum(map(math.isinf, [v for seeds in (values, *others) for v in seeds]))
    if gone:
        return Verdict(text, "undecided", f"{metric}: {gone} seed{'s' * (gone > 1)} diverged")
    low, high = claim.get("least", -math.inf), claim.get("most", math.inf)
    against = " and ".join(f"at {side} {claim[side]:g}" for side in ("least", "most") if side in claim)
    if others:  # seed by seed: no difference makes up for another
        one, two = (row for row in found if row)
        values = [a - b for a, b in zip(*_same_seeds(one, two, metric), strict=True)]
        if not values:
            return Verdict(text, "not run", "no seed in common")
        metric, equals = f"difference in {metric}", 0.0
    if equals is not None:
        low, high = equals - claim["within"], equals + claim["within"]
        against = f"{equals:.5g} (to within {claim['within']:g})"
    word = _inside(values, low, high)
    if others and word == "reproduced" and not all(low <= value <= high for value in values):
        word = "undecided"
    seeds = f"{len(values)} seed{'s' * (len(values) > 1)}"
    return Verdict(text, word, f"{metric} {shown(values, metric)} against {against}, {seeds}")


def _same_seeds(one: Row, two: Row, metric: str) -> tuple[list[float], list[float]]:
    """The metric of two rows, of the seeds that both have."""
    of_one, of_two = ({r.summary["seed"]: r.value(metric) for r in row.results} for row in (one, two))
    shared = sorted(of_one.keys() & of_two.keys())
    return [of_one[seed] for seed in shared], [of_two[seed] for seed in shared]


def _asked(claim: dict[str, Any], rows: list[Row]) -> list[Row]:
    return crossings(rows, claim["crosses"]) if "crosses" in claim else rows


def _predicted(claim: dict[str, Any], rows: list[Row]) -> Verdict:
    """The mean over seeds of the difference between a measured depth and the predicted one, within bounds."""
    sides = [(side["metric"], select(_asked(side, rows), claim["of"])) for side in (claim, claim["predicted"])]
    values = [[] if row is None else row.values(metric) for metric, row in sides]
    measured, predicted = values
    if not measured or any(map(math.isnan, measured + predicted)):
        return Verdict(claim["claim"], "not run", f"no run of {told(claim['of'])} at all depths")
    differences = [one - two for one, two in zip(measured, predicted, strict=True)]
    word = _inside(differences, -claim["within"], claim["within"])
    depths = f"{shown(measured, '')} layers measured, {shown(predicted, '')} predicted"
    return Verdict(claim["claim"], word, f"{depths} (to within {claim['within']:g}), {len(measured)} seeds")


def shown(values: list[float], metric: str) -> str:
    """Mean ± standard deviation: what is in % with two digits after the point, others with four that count."""
    mean, _, deviation = spread(values)
    if not math.isfinite(mean):
        return "–"
    wide, narrow = (".2f", ".2f") if metric.endswith(("_error", "_iou")) else (".4g", ".2g")
    return f"{mean:{wide}}" if math.isnan(deviation) else f"{mean:{wide}} ± {deviation:{narrow}}"
