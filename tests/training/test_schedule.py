"""Schedules against torch's own, closed forms, and the paper's iterations."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from depthlab.training import schedule

CONFIGS = Path(__file__).parents[2] / "configs" / "recipe" / "schedule"
PRESETS = {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in sorted(CONFIGS.glob("*.yaml"))}
LENGTHS = (1, 2, 3, 4, 5, 7, 10, 33, 270, 391, 1000)


def preset(option, **changes):
    """The schedule of a YAML file, as a function of step and steps."""
    values = PRESETS[option] | changes
    function = getattr(schedule, values.pop("name"))
    return lambda step, steps: function(step, steps, **values)


def torchs(scheduler, steps, **keywords):
    """The rates of one of torch's schedulers over a run, at a base rate of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    scheduler = scheduler(optimizer, **keywords)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < steps:
            scheduler.step()
    return rates


def factors(option, steps, **changes):
    function = preset(option, **changes)
    return [function(step, steps) for step in range(steps)]


def test_the_papers_rate_at_each_of_its_64000_iterations():
    rates = [0.1 * factor for factor in factors("step", 64_000)]
    assert set(rates[:32_000]) == {0.1}
    assert {round(rate, 12) for rate in rates[32_000:48_000]} == {0.01}
    assert {round(rate, 12) for rate in rates[48_000:]} == {0.001}


@pytest.mark.parametrize("steps", [4, 8, 100, 640, 6_400])
def test_a_scaled_run_drops_at_half_and_three_quarters(steps):
    quarters = 2 * [1.0] + [0.1, 0.01]
    wanted = [quarters[4 * step // steps] for step in range(steps)]
    assert factors("step", steps) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 270, 391, 401])
def test_drops_that_fall_between_two_iterations_are_at_most_half_an_iteration_off(steps):
    values = factors("step", steps)
    for level, share in enumerate((0.5, 0.75)):
        before = sum(value > 0.1**level * 0.5 for value in values)
        assert abs(before - share * steps) <= 0.5


def test_imagenet_drops_at_the_epochs_30_and_60_of_90():
    function = preset("step", drops=[*OmegaConf.load(CONFIGS.parent / "imagenet.yaml").schedule.drops])
    steps = (0, 149_999, 150_000, 299_999, 300_000, 449_999)
    assert [function(step, 450_000) for step in steps] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("steps", LENGTHS)
def test_cosine_is_torchs(steps):
    wanted = torchs(torch.optim.lr_scheduler.CosineAnnealingLR, steps, T_max=steps)
    assert factors("cosine", steps) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("steps", [4, 5, 7, 10, 33, 270, 1000, 6400])
def test_one_cycle_is_torchs(steps):
    wanted = torchs(
        torch.optim.lr_scheduler.OneCycleLR,
        steps,
        max_lr=1.0,
        total_steps=steps,
        pct_start=0.3,
        anneal_strategy="cos",
        div_factor=25,
        final_div_factor=1e4,
        cycle_momentum=False,
    )
    assert factors("one_cycle", steps) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("rise", "start", "end"), [(0.5, 10.0, 100.0), (0.1, 2.0, 1.0), (0.9, 25.0, 1e4)])
def test_one_cycle_is_torchs_with_other_keys(rise, start, end):
    keywords = {"pct_start": rise, "div_factor": start, "final_div_factor": end, "cycle_momentum": False}
    wanted = torchs(torch.optim.lr_scheduler.OneCycleLR, 50, max_lr=1.0, total_steps=50, **keywords)
    values = factors("one_cycle", 50, rise=rise, start=start, end=end)
    assert values == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("growth", [1.0001, 1.1, 0.9])
def test_exponential_is_torchs(growth):
    wanted = torchs(torch.optim.lr_scheduler.ExponentialLR, 300, gamma=growth)
    assert factors("exponential", 300, growth=growth, start=0) == pytest.approx(wanted, rel=1e-11)


def test_constant_stays():
    assert factors("constant", 100) == [1.0] * 100


@pytest.mark.parametrize("option", PRESETS)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), steps=st.integers(1, 10**6))
def test_a_rate_is_a_finite_number_and_never_negative_whatever_the_length(option, data, steps):
    step = data.draw(st.integers(0, steps - 1))
    factor = preset(option)(step, steps)
    assert 0 < factor < math.inf


@pytest.mark.parametrize("option", PRESETS)
@pytest.mark.parametrize("steps", LENGTHS)
def test_so_at_each_iteration_of_short_runs(option, steps):
    values = factors(option, steps)
    assert all(0 < value < 2 for value in values)
    if option in ("step", "cosine"):
        assert all(now <= before for before, now in pairwise(values))


@settings(max_examples=100, deadline=None)
@given(
    steps=st.integers(1, 500),
    rise=st.floats(0, 1),
    start=st.floats(1, 1e3),
    end=st.floats(1, 1e6),
    data=st.data(),
)
def test_one_cycle_stays_between_its_lowest_rate_and_its_peak(steps, rise, start, end, data):
    step = data.draw(st.integers(0, steps - 1))
    factor = schedule.one_cycle(step, steps, rise=rise, start=start, end=end)
    assert 1 / (start * end) * (1 - 1e-9) <= factor <= 1 + 1e-9
