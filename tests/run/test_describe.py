"""What is said about a run."""

import platform
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from depthlab.command.compose import compose
from depthlab.run import describe
from depthlab.run.describe import changed, duration, made_with, multiply_adds
from depthlab.run.plan import plan


@pytest.mark.parametrize(
    "options",
    [
        "depth=14",
        "depth=14 skip=conv weight=standardised norm=group",
        "depth=11 skip=shortcut_gate norm=instance block=bottleneck width=4",
        "depth=14 skip=none weight=dirac norm=layer",
        "depth=13 network=densenet skip=concat unit=preact",
        "depth=5 network=mlp block=single",
    ],
)
def test_multiply_adds_are_those_that_torch_counts(options):
    made = plan(*compose(f"data=digits {options}".split()))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made.build((3, 8, 8), 5).eval()(torch.zeros(1, 3, 8, 8))
    assert multiply_adds(made, (3, 8, 8), 5) == counter.get_total_flops() / 2 > 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (42.4, "42 s"),
        (99.4, "99 s"),
        (99.5, "2 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (12_600, "3.5 h"),
        (172_799, "48.0 h"),
        (172_800, "2.0 days"),
        (1_000_000, "11.6 days"),
    ],
)
def test_a_duration_is_said_as_a_person_says_it(seconds, text):
    assert duration(seconds) == text


def test_what_changed_is_named_and_what_is_unknown_is_not():
    now = made_with()
    assert changed(now, now) == changed({"step": 3}, now) == ""
    old = now | {"versions": now["versions"] | {"torch": "2.0"}, "git_commit": None}
    words = f"torch 2.0 -> {now['versions']['torch']}"
    assert changed(old, now | {"git_commit": "abc+"}) == f"{words}, commit None -> abc+"


def test_a_copy_that_is_not_installed_has_no_version_of_its_own(monkeypatch):
    def version(name):
        if name == "depthlab":
            raise PackageNotFoundError(name)
        return "1"

    installed = made_with()
    monkeypatch.setattr(describe, "version", version)
    assert made_with()["versions"] == {"python": platform.python_version(), "torch": "1"}
    assert "depthlab" not in changed(installed, made_with())


def test_git_is_asked_once(monkeypatch):
    made_with()
    monkeypatch.setattr("subprocess.run", None)
    made_with()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("depth=32 skip=none precision=bf16", True),
        ("depth=44 skip=none precision=tf32", True),
        ("depth=44 skip=none precision=fp32", False),
        ("depth=32 skip=identity precision=bf16", False),
        ("depth=32 skip=none precision=bf16 activation=tanh", False),
        ("depth=110 skip=none precision=fp64", False),
    ],
)
def test_a_plain_network_beyond_its_precisions_horizon_is_told_and_the_probe_named(command, options, told):
    outcome = command(*options.split(), "data=digits", "width=4", "epochs=0")
    assert outcome.code == 0
    assert ("rounding in" in outcome.out and "probe=gradient_precision" in outcome.out) == told
