"""The derivative along a line against finite differences, its autocorrelation against numpy and known noise."""

from functools import partial

import numpy as np
import pytest
import torch
from test_activations import fully
from test_inside import made, same, snapshot

import depthlab.data
from depthlab.errors import Mistake
from depthlab.network import norm, skip, unit
from depthlab.probes import gradient_correlation, lambda_product, shattered_gradients
from depthlab.probes.constant import constant_statistics
from depthlab.probes.shattered_gradients import autocorrelation
from depthlab.run.probing import Probe

LINE = torch.linspace(-2, 2, 256).view(-1, 1, 1, 1)
LABELS = (LINE.flatten() > 0).long()
DATA = depthlab.data.synthetic(
    torch.device("cpu"), classes=4, channels=3, size=8, images=32, test_images=8, augment=False
)


def batch(channels):
    return norm.batch(channels)


def toy(depth, join=skip.none, order=unit.original, norms=batch, width=64, seed=0):
    """A network of the paper's toy: one number in, two logits out."""
    net = fully(depth, width, order, join, norms, seed=seed)
    torch.manual_seed(seed)
    net.stem[1].conv1 = torch.nn.Linear(1, width, bias=norms is norm.none)
    torch.nn.init.normal_(net.stem[1].conv1.weight, std=2**0.5)
    if norms is norm.none:
        torch.nn.init.zeros_(net.stem[1].conv1.bias)
    return net


def test_against_finite_differences():
    net, step = made(depth=8, width=2).double(), 1e-6
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    found = shattered_gradients(net, x, torch.zeros(5), 0.1, points=20, lags=15)["gradient"]
    with torch.no_grad():  # the network is left with the line's statistics as its running ones
        slopes = []
        for t in torch.linspace(0, 1, 20).double():
            ends = [net(torch.lerp(x[:1], x[-1:], t + side))[0, 0] for side in (step, -step)]
            slopes.append(((ends[0] - ends[1]) / (2 * step)).item())
    assert found == pytest.approx(slopes, rel=1e-4, abs=1e-6)


def test_the_line_of_the_toy_is_its_data():
    net, seen = toy(3), []
    net.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    shattered_gradients(net, LINE, LABELS, 0.1, points=256, lags=15)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], LINE)


def test_the_estimator_against_numpy():
    series = torch.randn(100, generator=torch.Generator().manual_seed(0)).cumsum(0)
    z = series.double().numpy() - series.double().numpy().mean()
    whole = np.correlate(z, z, "full")[99:]
    assert autocorrelation(series, 40) == pytest.approx((whole / whole[0])[:41].tolist())


def test_white_and_brown_noise():
    """The dashed lines of the experiment: expectations of the estimator in 256 points."""
    noise = torch.randn(2000, 256, generator=torch.Generator().manual_seed(0))
    white = torch.tensor([autocorrelation(series, 40) for series in noise]).mean(0)
    assert white[1:].tolist() == pytest.approx([-(256 - k) / 256 / 255 for k in range(1, 41)], abs=0.008)
    brown = torch.tensor([autocorrelation(series.cumsum(0), 40) for series in noise]).mean(0)
    assert brown.tolist() == pytest.approx([0.9745**k - 0.0031 * k for k in range(41)], abs=0.02)


def test_without_norm_and_biases_the_toys_gradient_is_a_single_step():
    found = shattered_gradients(toy(20, norms=norm.none), LINE, LABELS, 0.1, points=256, lags=40)
    assert len({round(slope, 5) for slope in found["gradient"]}) == 2
    assert found["autocorrelation"] == pytest.approx([1 - 3 * lag / 256 for lag in range(41)], abs=1e-6)
    assert [found[f"lag_{k}"] for k in (1, 5, 15)] == [found["autocorrelation"][k] for k in (1, 5, 15)]


def test_depth_shatters_and_shortcuts_help():
    def lag_1(*keys):
        nets = [toy(*keys, width=128, seed=seed) for seed in range(3)]
        looks = [shattered_gradients(net, LINE, LABELS, 0.1, points=256, lags=15) for net in nets]
        return sum(look["lag_1"] for look in looks) / 3

    assert lag_1(3) > 0.94
    assert abs(lag_1(40)) < 0.15
    assert 0.5 < lag_1(40, skip.identity, unit.preact) < 0.9


NORMS = {
    "batch": batch,
    "ghost": lambda c: norm.ghost(c, size=4),
    "renorm": lambda c: norm.renorm(c, r_max=3, d_max=5, start=0, r_steps=4, d_steps=3, momentum=0.01),
    "momentum": lambda c: norm.momentum(c, m0=8, tau=0.9, steps=10),
    "layer": norm.layer,
}


@pytest.mark.parametrize("norms", NORMS)
def test_with_constant_statistics_an_output_depends_on_its_own_image_alone(norms):
    net = made(depth=8, norms=NORMS[norms])
    x = torch.randn(6, 3, 8, 8, requires_grad=True)
    with constant_statistics(net):
        logits = net(x)
    (slopes,) = torch.autograd.grad(logits[2].sum(), x)
    assert slopes.flatten(1).any(1).tolist() == [False, False, True, False, False, False]
    assert not any(m._forward_pre_hooks for m in net.modules())
    if norms == "batch":
        torch.testing.assert_close(logits, net.train()(x))


@pytest.mark.parametrize("norms", NORMS)
@pytest.mark.parametrize(
    ("measure", "keys"),
    [(shattered_gradients, {"points": 20, "lags": 15}), (gradient_correlation, {}), (lambda_product, {})],
)
def test_the_network_is_left_as_it_was(measure, keys, norms):
    net = made(depth=8, norms=NORMS[norms], join=lambda c: skip.dropout(c, p=0.5, rescale=False))
    net(torch.randn(4, 3, 8, 8)).sum().backward()
    net.units[1].eval()
    before = snapshot(net)
    Probe("made", partial(measure, **keys), None, "train", 8)(net, DATA, 0.1)
    assert same(before, snapshot(net))


@pytest.mark.parametrize(("points", "lags"), [(256, 14), (20, 20)])
def test_lags_that_are_too_few_or_too_many(points, lags):
    with pytest.raises(Mistake, match=rf"lags={lags}: at least 15, and under points={points}"):
        shattered_gradients(toy(3), LINE, LABELS, 0.1, points=points, lags=lags)
