"""Claims judged from run directories alone: reproduced, contradicted, undecided, not run."""

import math
from dataclasses import dataclass
from typing import Any

from depthlab.reports.collect import Row, spread

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
    """Each claim of an experiment: an ordering (`higher`, `lower`), or a published number (`of`, `within`).

    A published number is judged only where the runs are `published_at`, its data and recipe.
    """
    verdicts = [_ordering(claim, rows) for claim in experiment.get("claims", [])]
    at = experiment.get("published_at", {})
    there = [row for row in rows if matches(row, at)]
    return verdicts + [_published(number, there) for number in experiment.get("published", [])]


def select(rows: list[Row], wanted: dict[str, Any]) -> Row | None:
    """The one row with these facts, None if there is none; ValueError if there are several."""
    found = [row for row in rows if matches(row, wanted)]
    if len(found) > 1:
        raise ValueError(f"{told(wanted)} selects {len(found)} rows: {', '.join(row.label for row in found)}")
    return found[0] if found else None


def matches(row: Row, wanted: dict[str, Any]) -> bool:
    """Whether a row has these facts; false is a value that does nothing, which no row holds."""
    return all(row.facts.get(key) == (None if value is False else value) for key, value in wanted.items())


def told(wanted: dict[str, Any]) -> str:
    """Facts as a person types them: `depth=56 skip=none`."""
    return " ".join(f"{key}={value}" for key, value in wanted.items())


def _ordering(claim: dict[str, Any], rows: list[Row]) -> Verdict:
    metric, text = claim.get("metric", "train_error"), claim["claim"]
    high, low = select(rows, claim["higher"]), select(rows, claim["lower"])
    if high is None or low is None:
        missing = [told(claim[side]) for side, row in (("higher", high), ("lower", low)) if row is None]
        return Verdict(text, "not run", f"no run of {' and of '.join(missing)}")
    a, b = high.values(metric), low.values(metric)
    if any(map(math.isnan, a + b)):
        return Verdict(text, "not run", f"{metric} was not measured")
    compared = f"{metric} {_shown(a)} against {_shown(b)}"
    above, below = chance(a, b), chance(b, a)
    word = "reproduced" if above <= ALPHA else "contradicted" if below <= ALPHA else "undecided"
    seeds = f"{len(a)} and {len(b)} seeds"
    return Verdict(text, word, f"{compared}; permutation test, p = {min(above, below):.3g}, {seeds}")


def chance(higher: list[float], lower: list[float]) -> float:
    """The probability that a random split of the pooled values has a mean difference at least as large."""
    from scipy.stats import permutation_test

    samples = [[min(value, 1e9) for value in values] for values in (higher, lower)]  # infinity has no difference
    if min(len(higher), len(lower)) < 2:
        return 1.0

    def difference(a: Any, b: Any) -> float:
        return sum(a) / len(a) - sum(b) / len(b)

    found = permutation_test(samples, difference, alternative="greater", n_resamples=20_000, rng=0, vectorized=False)
    return float(found.pvalue)


def _published(number: dict[str, Any], rows: list[Row]) -> Verdict:
    metric = number.get("metric", "test_error")
    low, high = number["within"]
    text = f"{told(number['of'])}: {metric} {number['value']} ({low} to {high})"
    row = select(rows, number["of"])
    if row is None:
        return Verdict(text, "not run", "no run of it with the paper's data and recipe")
    mean, median, deviation = spread(row.values(metric))
    n = len(row.results)
    because = f"mean {mean:.2f}, median {median:.2f}, {n} seed{'s' * (n > 1)}"
    if math.isnan(deviation):
        return Verdict(text, "reproduced" if low <= mean <= high else "undecided", because)
    slack = SPREAD * deviation / math.sqrt(n)
    word = (
        "reproduced"
        if low <= mean <= high
        else "contradicted"
        if not low - slack <= mean <= high + slack
        else "undecided"
    )
    return Verdict(text, word, f"{because}, standard deviation {deviation:.2f}")


def _shown(values: list[float]) -> str:
    mean, _, deviation = spread(values)
    return f"{mean:.2f}" if math.isnan(deviation) else f"{mean:.2f} ± {deviation:.2f}"
