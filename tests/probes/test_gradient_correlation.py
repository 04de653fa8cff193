"""Variances and correlations of gradients against all pairs, linear networks, and theory."""

import itertools

import pytest
import torch
from test_activations import fully
from test_inside import made
from test_shattered_gradients import batch

from depthlab.errors import Mistake
from depthlab.network import activation, norm, skip, unit
from depthlab.probes import gradient_correlation

X, Y = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(6)
NOISE = torch.randn(128, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def test_against_each_image_by_itself_and_all_pairs():
    net = made(depth=8).double()
    found = gradient_correlation(net, X.double(), Y, 0.1)
    variance, covariance, coactive = [], [], []
    for place in range(4):  # the network is left with the batch's statistics as its running ones
        slopes, active = [], []
        for image in X.double():
            signal = net.stem(image[None])
            for part in net.units[:place]:
                signal = part(signal)
            signal = signal.detach().requires_grad_()
            active.append(signal > 0)
            end = signal
            for part in net.units[place:]:
                end = part(end)
            slopes.append(torch.autograd.grad(net.head(net.tail(end))[0, 0], signal)[0])
        pairs = [*itertools.combinations(range(6), 2)]
        variance.append(sum(s.square().mean().item() for s in slopes) / 6)
        covariance.append(sum((slopes[i] * slopes[j]).mean().item() for i, j in pairs) / len(pairs))
        coactive.append(sum((active[i] & active[j]).double().mean().item() for i, j in pairs) / len(pairs))
    assert found["variance"] == pytest.approx([v / variance[-1] for v in variance], rel=1e-9)
    assert found["covariance"] == pytest.approx([c / variance[-1] for c in covariance], rel=1e-9)
    assert found["correlation"] == pytest.approx([c / v for c, v in zip(covariance, variance, strict=True)], rel=1e-9)
    assert found["coactive"][0] == pytest.approx(coactive[0])  # of the stem's activation
    assert found["coactive"][2::2] == pytest.approx(coactive[1:])  # of those that end the units
    assert found["decay"] == pytest.approx(found["correlation"][0] / found["correlation"][-1])
    assert found["decay_factor"] == pytest.approx(found["decay"] ** (1 / 3))
    assert found["coactive_share"] == pytest.approx(sum(found["coactive"]) / 7)


@pytest.mark.parametrize("join", [skip.none, skip.identity])
def test_a_linear_network_has_one_gradient_everywhere(join):
    net = fully(12, 32, unit.preact, join, norm.none)
    for module in [*net.modules()]:
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ReLU):
                setattr(module, name, activation.identity())
    found = gradient_correlation(net, NOISE, Y, 0.1)
    assert found["correlation"] == pytest.approx([1] * 11, rel=1e-5)
    assert found["decay"] == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("join", "depth", "decay", "within"),
    [
        (skip.none, 5, 1 / 2**3, 0.03),
        (skip.identity, 42, 0.113, 0.025),  # between 40 units' 1 / sqrt(40) and 1 / 40
        (lambda c: skip.scaled(c, scale=1.0, branch=0.1), 42, 0.67, 0.06),
    ],
)
def test_theory_with_batch_norm(join, depth, decay, within):
    order = unit.original if join is skip.none else unit.preact
    looks = [gradient_correlation(fully(depth, 256, order, join, batch, seed=s), NOISE, Y, 0.1) for s in range(3)]
    assert sum(look["decay"] for look in looks) / 3 == pytest.approx(decay, abs=within)
    if join is skip.none:
        assert looks[0]["coactive_share"] == pytest.approx(0.25, abs=0.01)


def test_costs_one_pass():
    net, passes = made(), []
    net.register_forward_hook(lambda *_: passes.append(1))
    gradient_correlation(net, X, Y, 0.1)
    assert len(passes) == 1
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules() if m is not net)


def test_one_image_has_no_pair():
    with pytest.raises(Mistake, match=r"probe\.gradient_correlation\.images=1: at least 2"):
        gradient_correlation(made(), X[:1], Y[:1], 0.1)
