"""The papers' constants, the warm-up iteration by iteration, and what is refused."""

import math
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from depthlab import config
from depthlab.command.compose import compose
from depthlab.errors import Mistake
from depthlab.training import schedule
from depthlab.training.recipe import Recipe, Warmup, check, learning_rate, still_warm

CONFIGS = Path(__file__).parents[2] / "configs"


def composed(name, *overrides):
    cfg, _ = compose(["data=cifar10", f"recipe={name}", *overrides])
    return OmegaConf.to_object(cfg.recipe), cfg


@pytest.fixture(scope="module")
def he2015():
    return composed("he2015")[0]


@pytest.fixture(scope="module")
def he2016():
    return composed("he2016")[0]


def rates(recipe, depth, steps, errors, count=None):
    """The rates of a run, or of its first `count` iterations, with training error errors(k) before iteration k."""
    bound = config.bind(schedule, recipe.schedule, "recipe.schedule")
    warm, used = True, []
    for step in range(count or steps):
        warm = warm and still_warm(recipe, depth, step, steps, lambda step=step: errors(step))
        used.append(learning_rate(recipe, bound, step, steps, warm=warm))
    return used


# He et al. 2015, section 4.2; He et al. 2016, appendix and (ImageNet) section 5
PAPERS = {
    "he2015": {"batch": 128, "iterations": 64_000, "drops": [32_000, 48_000], "warm": 400, "from": 110, "error": 80},
    "he2016": {"batch": 128, "iterations": 64_000, "drops": [32_000, 48_000], "warm": 400, "from": 0, "error": 0},
    "imagenet": {
        "batch": 256,
        "iterations": 450_000,
        "drops": [150_000, 300_000],
        "warm": 0,
        "from": 110,
        "error": 80,
    },
}


@pytest.mark.parametrize("name", PAPERS)
def test_the_files_hold_the_papers_constants(name):
    recipe, paper = composed(name)[0], PAPERS[name]
    assert (recipe.batch, recipe.iterations) == (paper["batch"], paper["iterations"])
    assert (recipe.rate, recipe.momentum, recipe.decay) == (0.1, 0.9, 0.0001)
    assert (recipe.nesterov, recipe.decay_on) == (False, "all")
    assert recipe.schedule["name"] == "step"
    assert recipe.schedule["factor"] == 0.1
    assert [round(drop * recipe.iterations) for drop in recipe.schedule["drops"]] == paper["drops"]
    assert round(recipe.warmup.share * recipe.iterations) == paper["warm"]
    assert (recipe.warmup.rate, recipe.warmup.until_error) == (0.01, paper["error"])
    assert recipe.warmup.from_depth == paper["from"]


@pytest.mark.parametrize(("name", "epochs"), [("cifar10_small", (5, 5_000)), ("digits", (12, 1_437))])
def test_the_laptops_recipes_have_the_epochs_that_they_say(name, epochs):
    recipe = composed(name)[0]
    count, images = epochs
    assert recipe.iterations == -(-count * images // recipe.batch)
    assert (recipe.rate, recipe.momentum, recipe.decay) == (0.1, 0.9, 0.0001)
    assert recipe.warmup.share == 0


@pytest.mark.parametrize("path", sorted((CONFIGS / "recipe").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_right_by_its_own_rules(path):
    recipe = composed(path.stem)[0]
    assert isinstance(recipe, Recipe)
    assert isinstance(recipe.warmup, Warmup)
    check(recipe)


@pytest.mark.parametrize("depth", [110, 164, 1202])
def test_he2015_an_error_that_stays_at_90_warms_exactly_400_iterations(he2015, depth):
    used = rates(he2015, depth, 64_000, lambda step: 90.0)
    assert set(used[:400]) == {0.01}
    assert set(used[400:32_000]) == {0.1}
    assert used[32_000:32_001] == pytest.approx([0.01])
    assert used[-1] == pytest.approx(0.001)


@pytest.mark.parametrize("falls", [0, 1, 57, 399])
def test_he2015_warms_until_the_error_is_under_80_and_never_again(he2015, falls):
    """The error falls, then rises again."""
    used = rates(he2015, 110, 64_000, lambda step: 79.99 if step == falls else 95.0)
    assert set(used[:falls]) <= {0.01}
    assert set(used[falls:32_000]) == {0.1}


def test_he2015_80_percent_is_not_under_80_and_no_error_yet_is_no_small_one(he2015):
    assert still_warm(he2015, 110, 399, 64_000, lambda: 80.0)
    assert still_warm(he2015, 110, 0, 64_000, lambda: math.nan)
    assert not still_warm(he2015, 110, 399, 64_000, lambda: 79.999)
    assert not still_warm(he2015, 110, 400, 64_000, lambda: math.nan)


@pytest.mark.parametrize("depth", [8, 20, 32, 44, 56, 109])
def test_he2015_shallower_networks_never_warm(he2015, depth):
    assert rates(he2015, depth, 64_000, lambda step: 90.0, count=1000) == 1000 * [0.1]


@pytest.mark.parametrize("depth", [8, 20, 110, 164, 1001])
@pytest.mark.parametrize("error", [0.0, 50.0, 100.0, math.nan])
def test_he2016_warms_exactly_400_iterations_at_every_depth_and_error(he2016, depth, error):
    used = rates(he2016, depth, 64_000, lambda step: error, count=1000)
    assert used == 400 * [0.01] + 600 * [0.1]


def test_the_error_is_not_asked_for_where_it_does_not_matter(he2015, he2016):
    """To read it means to wait for the device."""

    def asked():
        raise AssertionError

    assert still_warm(he2016, 20, 0, 64_000, asked)
    assert not still_warm(he2016, 20, 400, 64_000, asked)
    assert not still_warm(he2015, 20, 0, 64_000, asked)
    assert not still_warm(he2015, 110, 400, 64_000, asked)


@pytest.mark.parametrize(("steps", "warm"), [(64_000, 400), (6_400, 40), (80, 0), (81, 1), (160, 1), (1, 0)])
def test_a_shorter_run_warms_for_the_same_share(he2016, steps, warm):
    assert rates(he2016, 20, steps, lambda step: 90.0).count(0.01) >= warm
    assert [still_warm(he2016, 20, step, steps, lambda: 90.0) for step in range(min(steps, 500))].count(True) == warm


@pytest.mark.parametrize("name", ["digits", "cifar10_small", "imagenet"])
def test_no_share_is_no_warm_up(name):
    assert not still_warm(composed(name)[0], 1202, 0, 1000, lambda: 100.0)


# key, the values at the edge that are right, the values beyond it, what the line says
RANGES = [
    ("batch", [1, 4096], [0, -1], "at least 1"),
    ("iterations", [0, 1, None], [-1, 2**31], "from 0 to 2147483647"),
    ("rate", [1e-300, 1e300], [0.0, -0.1, math.inf, math.nan], "above 0"),
    ("momentum", [0.0, 0.999], [1.0, -0.1, math.nan, math.inf], "at least 0 and under 1"),
    ("decay", [0.0, 1e300], [-1e-9, math.inf, math.nan], "at least 0"),
    ("warmup.rate", [1e-300], [0.0, -1.0, math.inf, math.nan], "above 0"),
    ("warmup.share", [0.0, 1.0], [-0.001, 1.001, math.nan], "from 0 to 1"),
    ("decay_on", ["all", "weights", "convolutions"], ["weight", "All", ""], "(allowed: all, weights, convolutions)"),
    ("schedule_on", [None, "convolutions"], ["weight", "All"], "(allowed: all, weights, convolutions)"),
]
WRONG = [(key, value, text) for key, _, values, text in RANGES for value in values]
RIGHT = [(key, value) for key, values, _, _ in RANGES for value in values]


def changed(recipe, key, value):
    node = OmegaConf.structured(recipe)
    OmegaConf.update(node, key, value)
    return OmegaConf.to_object(node)


@pytest.mark.parametrize(("key", "value", "text"), WRONG)
def test_a_constant_beyond_its_range_is_one_line(he2015, key, value, text):
    with pytest.raises(Mistake) as mistake:
        check(changed(he2015, key, value))
    line = str(mistake.value)
    assert line.startswith(f"recipe.{key}={value}: ")
    assert line.endswith(text)
    assert "\n" not in line


@pytest.mark.parametrize(("key", "value"), RIGHT)
def test_a_constant_at_the_edge_of_its_range_is_right(he2015, key, value):
    check(changed(he2015, key, value))


def test_nesterov_needs_momentum(he2015):
    check(changed(he2015, "nesterov", True))
    with pytest.raises(Mistake, match=r"^recipe\.nesterov=true: needs recipe\.momentum above 0$"):
        check(changed(changed(he2015, "momentum", 0.0), "nesterov", True))
