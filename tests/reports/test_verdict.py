"""Verdicts on made-up runs of known outcome."""

import math
from itertools import combinations
from pathlib import Path

import pytest
from scipy.stats import ttest_1samp

from depthlab.reports.collect import Result, Row, crossings
from depthlab.reports.verdict import chance, judge, select, told


def row(errors, metric="train_error", **facts):
    """A row whose seeds ended with these errors; None: diverged without a number."""
    results = [
        Result(
            Path(f"run{seed}"),
            {"seed": seed} | facts,
            {
                "choices": {},
                "seed": seed,
                "final": {metric: error},
                "status": "finished" if error is not None else "diverged",
            },
            [{"step": 1}],
        )
        for seed, error in enumerate(errors)
    ]
    return Row(str(facts), facts, results)


def word(higher, lower, metric="train_error"):
    claim = {"claim": "deep is worse", "metric": metric, "higher": {"depth": 56}, "lower": {"depth": 20}}
    (verdict,) = judge({"claims": [claim]}, [row(higher, metric, depth=56), row(lower, metric, depth=20)])
    return verdict.word


@pytest.mark.parametrize(
    ("higher", "lower", "expected"),
    [
        ([61, 54, 47], [0.3, 0.3, 0.2], "reproduced"),
        ([0.3, 0.3, 0.2], [61, 54, 47], "contradicted"),
        ([3, 5, 7], [4, 2, 6], "undecided"),  # they overlap
        ([61, 54], [0.3, 0.2], "undecided"),  # two seeds cannot reach 5 %
        ([61], [0.3], "undecided"),
        ([61, 54, 47], [0.3], "undecided"),  # nor can one seed
        ([0, 0, 0], [0, 0, 0], "undecided"),  # a tie
        ([5, 5, 5], [5, 5, 5.1], "undecided"),
        ([None, None, None], [1, 2, 3], "reproduced"),  # diverged is worse than any number
        ([1, 2, 3], [None, None, None], "contradicted"),
        ([None, None, None], [None, None, None], "undecided"),
        ([None, 4, 5], [1, 2, 3], "reproduced"),
        ([6, 7, 8, 1, 2], [1.5, 2.5, 3, 4, 5], "undecided"),
        ([6, 7, 8, 9, 4.5], [1, 2.5, 3, 4, 5], "reproduced"),
    ],
)
def test_orderings(higher, lower, expected):
    assert word(higher, lower) == expected


@pytest.mark.parametrize(
    ("seeds", "paired", "least"),
    [(2, False, "0.17"), (3, False, None), (1, False, "0.5"), (4, True, "0.062"), (5, True, None)],
)
def test_too_few_seeds_are_said_to_decide_nothing(seeds, paired, least):
    claim = {"claim": "deep is worse", "higher": {"depth": 56}, "lower": {"depth": 20}, "paired": paired}
    high, low = row([9.0 + n for n in range(seeds)], depth=56), row([float(n) for n in range(seeds)], depth=20)
    (verdict,) = judge({"claims": [claim]}, [high, low])
    assert verdict.word == ("undecided" if least else "reproduced")
    assert ("too few" in verdict.because) == (least is not None)
    assert f"(p is at least {least})" in verdict.because or least is None


def test_facts_are_told_as_they_are_typed():
    facts = {
        "depth": 56,
        "norm.affine": False,
        "recipe.optimizer.name": None,
        "skip.scale": 0.5,
        "best": "test_error",
    }
    assert told(facts) == "depth=56 norm.affine=false recipe.optimizer.name=sgd skip.scale=0.5"


def test_a_metric_that_was_not_measured_decides_nothing():
    claim = {"claim": "c", "metric": "clean_train_error", "higher": {"depth": 56}, "lower": {"depth": 20}}
    (verdict,) = judge({"claims": [claim]}, [row([1, 2, 3], depth=20), row([7, 8, 9], depth=56)])
    assert (verdict.word, verdict.because) == ("not run", "clean_train_error was not measured")


def test_an_ordering_of_runs_that_are_not_there_is_not_run():
    claim = {"claim": "c", "higher": {"depth": 56, "skip": "none"}, "lower": {"depth": 20}}
    (verdict,) = judge({"claims": [claim]}, [row([1, 2, 3], depth=20)])
    assert (verdict.word, verdict.because) == ("not run", "no run of depth=56 skip=none")


@pytest.mark.parametrize(
    ("a", "b"), [([3.0, 1.0, 4.0], [1.5, 9.0, 2.6]), ([5, 6, 7], [1, 2]), ([1, 1, 2], [1, 2, 2])]
)
def test_chance_is_the_share_of_splits_at_least_as_extreme(a, b):
    """Against a straight enumeration of all ways to call len(a) of the pooled values the higher ones."""
    pooled, n = [*a, *b], len(a)

    def difference(chosen):
        rest = [v for i, v in enumerate(pooled) if i not in chosen]
        return sum(pooled[i] for i in chosen) / n - sum(rest) / len(rest)

    splits = [difference(chosen) for chosen in combinations(range(len(pooled)), n)]
    observed = difference(range(n))
    assert chance(a, b) == pytest.approx(sum(d >= observed - 1e-12 for d in splits) / len(splits))


def test_a_tie_is_one_however_it_was_summed():
    """Errors on 360 images, three seeds: every way in which one of the higher row equals one of the lower."""
    for wrong in range(0, 360, 7):
        a, b = (
            [100 * k / 360 for k in part] for part in ((wrong + 1, wrong + 2, wrong + 2), (wrong, wrong, wrong + 1))
        )
        assert chance(a, b) == pytest.approx(0.1)
        assert chance([-v for v in b], [-v for v in a]) == pytest.approx(0.1)
        assert chance(a + [math.inf] * 3, b + [math.inf] * 3) > 0.1


def test_three_seeds_apart_are_exactly_one_in_twenty():
    assert chance([4, 5, 6], [1, 2, 3]) == pytest.approx(0.05)


@pytest.mark.parametrize(
    "values", [[0.9, 1.4, 1.3], [1.1, 1.2, 1.15], [0.1, 0.4, 0.3, 0.35], [5.0, 9.0], [2.0, 2.001]]
)
@pytest.mark.parametrize("claim", [{"least": 1.0}, {"most": 1.0}, {"equals": 1.2, "within": 0.2}])
def test_a_value_is_judged_by_students_t(values, claim):
    """Against scipy's test: one-sided at 5 %, and of an interval at both of its ends."""
    bounds = {"greater": claim.get("least"), "less": claim.get("most")}
    if "equals" in claim:
        bounds = {"greater": claim["equals"] - claim["within"], "less": claim["equals"] + claim["within"]}
    p = {side: ttest_1samp(values, bound, alternative=side).pvalue for side, bound in bounds.items() if bound}
    out = {"greater": "less", "less": "greater"}
    q = [ttest_1samp(values, bound, alternative=out[side]).pvalue for side, bound in bounds.items() if bound]
    wanted = "reproduced" if max(p.values()) <= 0.05 else "contradicted" if min(q) < 0.05 else "undecided"
    claim = {"claim": "c", "metric": "train_error", "of": {"depth": 20}} | claim
    assert judge({"claims": [claim]}, [row(values, depth=20)])[0].word == wanted
    (verdict,) = judge({"claims": [claim]}, [row(values[:1], depth=20)])
    assert (verdict.word, verdict.because.endswith(", 1 seed, which decides nothing")) == ("undecided", True)


def test_of_a_diverged_run_an_error_is_100_whatever_it_had_come_to():
    diverged = row([3.0], depth=20)
    diverged.results[0].summary["status"] = "diverged"
    assert diverged.values("train_error") == [100]
    assert diverged.values("test_iou") == [0]
    assert diverged.values("train_loss") == [math.inf]
    assert diverged.bounds("lesion.worst_error") == ([-math.inf], [math.inf])


@pytest.mark.parametrize("side", ["higher", "lower"])
def test_what_a_probe_would_have_seen_of_a_diverged_run_could_be_anything(side):
    claim = {"claim": "c", "metric": "p.cosine", "higher": {"norm": "a"}, "lower": {"norm": "b"}}
    rows = kind((20,), [(0.9,)] * 3, norm="a") + kind((20,), [(0.1,)] * 3, norm="b")
    assert judge({"claims": [claim]}, rows)[0].word == "reproduced"
    for result in rows[side == "lower"].results:
        result.summary["status"] = "diverged"
    assert judge({"claims": [claim]}, rows)[0].word == "undecided"


PUBLISHED = {
    "published_at": {"data": "cifar10"},
    "published": [{"of": {"depth": 110}, "value": 6.61, "within": [6.3, 7.0]}],
}


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([6.5, 6.6, 6.7], "reproduced"),
        ([9.0, 9.1, 9.2], "contradicted"),
        ([7.05, 7.2, 7.0], "undecided"),  # outside, by less than the seeds' spread can tell from inside
        ([5.0, 5.1, 4.9], "contradicted"),
        ([6.6], "reproduced"),
        ([9.0], "undecided"),  # one seed outside has no spread to judge by
        ([None, None, None], "contradicted"),
    ],
)
def test_published_numbers(errors, expected):
    (verdict,) = judge(PUBLISHED, [row(errors, "test_error", depth=110, data="cifar10")])
    assert verdict.word == expected
    assert "6.61" in verdict.claim


def test_a_published_number_of_a_probe_needs_all_seeds():
    number = {"of": {"depth": 20}, "metric": "p.cosine", "value": 1.8, "within": [1.5, 2.1]}
    rows = kind((20,), [(1.6,)] * 3)
    assert judge({"published": [number]}, rows)[0].word == "reproduced"
    rows[0].results[1].probes["p"][0]["cosine"] = math.nan
    assert judge({"published": [number]}, rows)[0].word == "not run"
    rows[0].results[1].summary["status"] = "diverged"
    (verdict,) = judge({"published": [number]}, rows)
    assert (verdict.word, verdict.because) == ("undecided", "p.cosine: 1 seed diverged")


def test_published_numbers_are_judged_only_at_the_papers_scale():
    (verdict,) = judge(PUBLISHED, [row([6.6, 6.6, 6.6], "test_error", depth=110, data="digits")])
    assert verdict.word == "not run"


def test_a_selector_that_fits_two_rows_is_a_defect():
    with pytest.raises(ValueError, match="selects 2 rows"):
        select([row([1], depth=20, skip="none"), row([1], depth=20, skip="identity")], {"depth": 20})


def test_the_best_of_a_grid_is_the_row_of_the_least_mean():
    grid = [row([9, 9, 9], rate=0.1), row([1, 2, 3], rate=0.3), row([None, None, None], rate=1.0)]
    assert select(grid, {"best": "train_error"}) is grid[1]
    assert select(grid, {"best": "train_error", "rate": 0.1}) is grid[0]
    assert select(grid, {"best": "train_error", "rate": 7}) is None
    claim = {"claim": "c", "higher": {"rate": 0.1}, "lower": {"best": "train_error"}}
    assert judge({"claims": [claim]}, grid)[0].word == "reproduced"


def kind(depths, cosines, **facts):
    """Rows of several depths; `cosines`: of each seed, one a depth. The bits needed are a quarter of the depth."""
    made = []
    for i, depth in enumerate(depths):
        results = []
        for seed, values in enumerate(cosines):
            looks = {"p": [{"step": 0, "cosine": values[i], "bits": depth / 4}]}
            summary = {"choices": {}, "seed": seed, "final": {}, "status": "finished", "iterations": 0}
            results.append(Result(Path("run"), {"seed": seed, "depth": depth} | facts, summary, [{"step": 0}], looks))
        made.append(Row(f"depth={depth} {facts}", {"depth": depth} | facts, results))
    return made


SEEDS = [(1.0, 0.9, 0.1), (1.0, 0.8, 0.2), (1.0, 0.7, 0.3), (1.0, 0.6, 0.4)]


def crossing(claim, rows):
    (verdict,) = judge({"claims": [{"claim": "it crosses", "metric": "p.cosine", "crosses": 0.5} | claim]}, rows)
    return verdict


def test_a_depth_at_which_a_number_crosses_a_level_is_judged_like_any_number():
    rows = kind((20, 40, 60), SEEDS, norm="batch") + kind((20, 40, 60), [(1.0, 1.0, 0.9)] * 4, norm="none")
    found = crossing({"of": {"norm": "batch"}, "equals": 50, "within": 1}, rows)
    assert (found.word, found.because) == ("reproduced", "p.cosine 50 ± 0 against 50 (to within 1), 4 seeds")
    assert crossing({"of": {"norm": "none"}, "least": 60}, rows).word == "reproduced"  # beyond the deepest
    assert crossing({"higher": {"norm": "none"}, "lower": {"norm": "batch"}}, rows).word == "reproduced"


def test_a_predicted_depth():
    rows = kind((20, 40, 60), SEEDS)
    bits = {"metric": "p.bits", "crosses": 12.0}  # at 48 layers
    found = crossing({"of": {}, "predicted": bits, "within": 3}, rows)
    assert (found.word, found.because.partition(" (")[0]) == (
        "reproduced",
        "50 ± 0 layers measured, 48 ± 0 predicted",
    )
    assert crossing({"of": {}, "predicted": bits, "within": 1}, rows).word == "contradicted"
    assert crossing({"of": {"norm": "layer"}, "predicted": bits, "within": 1}, rows).word == "not run"
    assert crossing({"of": {}, "predicted": bits | {"metric": "p.no"}, "within": 1}, rows).word == "not run"


def test_a_number_on_the_level_crosses_it_there():
    assert (
        crossing({"of": {}, "equals": 40, "within": 1}, kind((20, 40, 60), [(1.0, 0.5, 0.1)] * 4)).word
        == "reproduced"
    )


def test_one_seed_that_moves_the_other_way_lies_where_the_others_do():
    """A flat curve far above the level: its noise does not say that it crossed before."""
    rows = kind((20, 40, 60), [(0.95, 0.9, 0.88)] * 3 + [(0.95, 0.9, 0.96)])
    assert crossing({"of": {}, "least": 60}, rows).word == "reproduced"


def test_noise_does_not_say_on_which_side_of_the_depths_it_crosses():
    """A curve that has long fallen when the first depth is run: it seems to rise, or to fall."""
    for last in (0.1, -0.05):
        rows = kind((44, 80), [(0.0, last), (0.1, 0.02), (-0.1, last), (0.05, -0.1)])
        found = crossing({"of": {}, "predicted": {"metric": "p.bits", "crosses": 15.0}, "within": 5}, rows)
        assert (found.word, found.because.endswith("4 seeds; 4 could be anywhere")) == ("undecided", True)
        assert (
            crossing({"of": {}, "least": 80}, rows).word == crossing({"of": {}, "most": 44}, rows).word == "undecided"
        )


def test_where_a_run_diverged_the_depth_is_not_known():
    rows = kind((20, 40, 60), SEEDS)
    for result in rows[1].results:
        result.summary["status"] = "diverged"
    assert crossing({"of": {}, "equals": 50, "within": 1}, rows).word == "undecided"


LATE, EARLY = [(1.0, 0.9, 0.8)] * 4, [(0.4, 0.3, 0.1)] * 4


@pytest.mark.parametrize(
    ("seeds", "claim", "expected"),
    [
        (LATE, {"of": {}, "least": 60}, "reproduced"),
        (LATE, {"of": {}, "least": 61}, "undecided"),  # it lies beyond 60, but how far?
        (LATE, {"of": {}, "most": 59}, "contradicted"),
        (LATE, {"of": {}, "equals": 60, "within": 5}, "undecided"),
        (LATE, {"of": {}, "predicted": {"metric": "p.bits", "crosses": 12.0}, "within": 5}, "contradicted"),
        (LATE, {"of": {}, "predicted": {"metric": "p.bits", "crosses": 14.0}, "within": 5}, "undecided"),
        (LATE, {"of": {}, "predicted": {"metric": "p.bits", "crosses": 99.0}, "within": 5}, "undecided"),
        (SEEDS, {"of": {}, "predicted": {"metric": "p.bits", "crosses": 99.0}, "within": 5}, "contradicted"),
        (EARLY, {"of": {}, "most": 20}, "reproduced"),
        (EARLY, {"of": {}, "equals": 20, "within": 5}, "undecided"),
        (EARLY, {"of": {}, "predicted": {"metric": "p.bits", "crosses": 12.0}, "within": 5}, "contradicted"),
    ],
)
def test_a_crossing_beyond_the_depths_that_were_run_is_known_to_lie_there(seeds, claim, expected):
    found = crossing(claim, kind((20, 40, 60), seeds))
    assert found.word == expected
    assert " beyond the depths that were run" in found.because


def test_pairs_of_the_same_seeds_are_compared_with_each_other():
    high, low = [11.0, 21.0, 31.0, 41.0, 51.0], [10.0, 20.0, 30.0, 40.0, 50.0]
    rows = [row(high, depth=56), row(low, depth=20)]
    claim = {"claim": "worse", "metric": "train_error", "higher": {"depth": 56}, "lower": {"depth": 20}}
    (alone,), (pairs,) = (judge({"claims": [claim | {"paired": paired}]}, rows) for paired in (False, True))
    assert (alone.word, pairs.word) == ("undecided", "reproduced")
    assert "p = 0.0312, 5 pairs" in pairs.because  # 1 / 2^5


def test_a_row_is_compared_by_the_seeds_of_the_other_alone():
    rows = [row([1.0, 2.0, 3.0], "train_loss", depth=20), row([1.0, 2.0, 3.0, None], "train_loss", depth=56)]
    claim = {"claim": "c", "metric": "train_loss", "of": {"depth": 20}, "equals": {"depth": 56}, "within": 0.1}
    assert judge({"claims": [claim]}, rows)[0].word == "reproduced"


def test_a_diverged_loss_is_said_to_count():
    claim = {"claim": "c", "metric": "train_loss", "higher": {"depth": 56}, "lower": {"depth": 20}}
    rows = [row([1.0, 2.0, 3.0], "train_loss", depth=20), row([None] * 3, "train_loss", depth=56)]
    (verdict,) = judge({"claims": [claim]}, rows)
    assert (verdict.word, verdict.because.rpartition("; ")[2]) == (
        "reproduced",
        "3 seeds diverged, which counts as infinite",
    )


def test_a_depth_is_not_known_where_a_number_in_between_was_not_measured():
    rows = kind((20, 40, 60, 80), [(1.0, math.nan, 0.9, 0.1)] * 4)
    assert crossing({"of": {}, "equals": 75, "within": 5}, rows).word == "not run"
    rows = kind((20, 40, 60, 80), [(1.0, 0.9, 0.1, math.nan), (1.0, 0.9, 0.1, math.inf)] * 2)
    assert crossing({"of": {}, "equals": 50, "within": 5}, rows).word == "reproduced"
    away = kind((20, 40, 60), [*[(1.0, 0.9, 0.8)] * 3, (1.0, 0.9, math.nan)])
    assert crossings(away, 0.5)[0].results[0].bounds("p.cosine") == (60, math.inf)  # as the others move


def test_of_equal_errors_the_best_has_the_least_training_loss():
    grid = [row([0.0], rate=rate) for rate in (0.01, 0.1)]
    for part, loss in zip(grid, (0.2, 0.1), strict=True):
        part.results[0].summary["final"]["train_loss"] = loss
    assert select(grid, {"best": "train_error"}) is grid[1]


def test_of_a_grid_the_best_is_not_one_that_most_seeds_did_not_survive():
    lost, kept = row([0.1, None, None], "test_loss", rate=0.1), row([0.2, 0.2, 0.2], "test_loss", rate=0.01)
    assert select([lost, kept], {"best": "test_loss"}) is kept
    claim = {"claim": "it is worse", "metric": "test_loss", "higher": {"rate": 0.1}, "lower": {"rate": 0.01}}
    (verdict,) = judge({"claims": [claim]}, [lost, kept])
    assert verdict.because.endswith("3 and 3 seeds; 2 seeds diverged, which counts as infinite")
