"""Means, variances and dead channels against direct computation, and against theory in wide networks."""

import pytest
import torch
from test_inside import made
from torch import nn

from depthlab.network import activation, init, norm, skip, unit
from depthlab.network.mlp import mlp
from depthlab.probes import activations

X, Y = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(32) % 10


def fully(depth, width, order, join, norms, fill=init.kaiming, seed=0):
    torch.manual_seed(seed)
    net = mlp((1, 8, 8), 10, depth, width, None, order(), join, norms, activation.relu)
    net.activation = "relu"
    keys = {"distribution": "normal", "zero_last": False}
    keys |= {"fan": "fan_in", "gain": None} if fill is init.kaiming else {"gain": 1.0}
    fill(net, **keys)
    return net


def test_against_a_pass_by_hand():
    net = made(depth=8)
    found = activations(net, X, Y, 0.1)
    net.train()
    signal = net.stem(X)
    variances, means = [signal.var(correction=0)], [signal.mean()]
    deviations = [net.stem[:2](X).std(correction=0)]
    for part in net.units:
        deviations.append(part.branch[:2](signal).std(correction=0))
        deviations.append(part.branch(signal).std(correction=0))
        signal = part(signal)
        variances.append(signal.var(correction=0))
        means.append(signal.mean())
    assert found["unit_variance"] == pytest.approx([v.item() for v in variances], rel=1e-4)
    assert found["unit_mean"] == pytest.approx([m.item() for m in means], rel=1e-4)
    assert found["deviation"] == pytest.approx([d.item() for d in deviations], rel=1e-4)
    assert found["response"] == pytest.approx(sum(found["deviation"]) / 7)


def test_dead_and_always_on_channels_are_counted():
    net = made(depth=8)
    norm1 = net.units[1].branch.norm1
    with torch.no_grad():
        norm1.bias[0], norm1.bias[1], norm1.bias[2] = -100, 100, 100
    found = activations(net, X, Y, 0.1)
    acts = [name for name, _ in net.named_modules() if name.rpartition(".")[2].startswith("act")]
    place = acts.index("stages.1.0.branch.act1")
    assert found["dead"][place] == 1 / 8
    assert found["always_on"][place] == 2 / 8
    assert len(found["dead"]) == 7
    assert found["dead_share"] == pytest.approx(sum(found["dead"]) / 7)


def rescaled(channels):
    return skip.scaled(channels, scale=2**-0.5, branch=2**-0.5)


@pytest.mark.parametrize(
    ("join", "norms", "order", "fill", "metric", "theory"),
    [
        (skip.identity, norm.none, unit.preact, init.kaiming, "variance_factor", 2),
        (
            rescaled,
            norm.none,
            unit.preact,
            init.kaiming,
            "variance_factor",
            1,
        ),
        (skip.identity, lambda c: norm.batch(c), unit.preact, init.kaiming, "variance_step", 1),
        (skip.none, norm.none, unit.original, init.kaiming, "variance_factor", 1),
        (skip.none, norm.none, unit.original, init.xavier, "variance_factor", 0.5),
    ],
)
def test_theory(join, norms, order, fill, metric, theory):
    x = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    found = [activations(fully(22, 256, order, join, norms, fill, s), x, Y, 0.1)[metric] for s in range(4)]
    assert sum(found) / 4 == pytest.approx(theory, rel=0.06)


def test_costs_one_forward_pass():
    net, passes = made(), []
    net.register_forward_hook(lambda *_: passes.append(1))
    activations(net, X, Y, 0.1)
    assert len(passes) == 1
    assert all(not m._forward_hooks for m in net.modules() if m is not net)
    assert isinstance(net, nn.Module)
