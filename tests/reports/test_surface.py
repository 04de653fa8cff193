"""Contours of a loss: which panels there are, what is labelled, and values that no contour has."""

from pathlib import Path

import pytest

from depthlab.reports.collect import Result, Row
from depthlab.reports.profile import _round, surface

SPEC = {"y": "loss_surface.loss", "title": "loss"}
AXIS = [-1.0, 0.0, 1.0]


def row(depth, skip, loss):
    looks = [{"step": step, "alpha": AXIS, "beta": AXIS, "loss": loss} for step in (0, 5)]
    result = Result(Path("run"), {}, {"seed": 0, "iterations": 5}, [], {"loss_surface": looks})
    return Row(f"depth={depth} skip={skip}", {"depth": depth, "skip": skip}, [result])


def bowl(scale, bottom=1e-3):
    return [[bottom + scale * (a * a + b * b) for a in AXIS] for b in AXIS]


def test_panels_are_plain_first_then_residual_by_depth_with_one_scale():
    rows = [row(d, s, bowl(d)) for d in (20, 56) for s in ("identity", "none")]
    *panels, bar = surface(rows, SPEC).axes
    assert [ax.get_title() for ax in panels] == [
        *("plain, 20 layers", "plain, 56 layers", "residual, 20 layers", "residual, 56 layers")
    ]
    assert bar.get_ylabel() == "loss"
    labels = [label.get_text() for label in bar.get_yticklabels()]
    assert labels == ["0.001", "0.01", "0.1", "1", "10", "100"]
    assert {text.get_text() for text in panels[0].texts} <= {*labels}
    assert panels[0].texts


@pytest.mark.parametrize(
    "loss",
    [
        [[1.0] * 3] * 3,
        [[1.0, 2.0, None], [3.0, 1.0, 2.0], [0.0, 5.0, 1e9]],
        [[1e-9, 1e-9, 1e-9], [1.0, 1.0, 1.0], [1e30, 1e30, 1e30]],
    ],
)
def test_flat_holed_and_steep_surfaces_are_drawn(loss):
    assert surface([row(20, "none", loss)], SPEC).axes[0].collections


@pytest.mark.parametrize(
    ("low", "high", "values"),
    [(-3.2, 1.1, [0.001, 0.01, 0.1, 1, 10]), (0.1, 1.1, [2, 5, 10]), (0.0, 0.1, [1, 10**0.1])],
)
def test_round_values(low, high, values):
    assert [10**v for v in _round([low, high])] == pytest.approx(values)
