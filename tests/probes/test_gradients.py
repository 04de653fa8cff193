"""Gradient norms against finite differences, and their growth against Yang et al. 2019."""

import math

import pytest
import torch
from test_activations import fully
from test_inside import dense, made
from torch.nn import functional

from depthlab.errors import Mistake
from depthlab.network import norm, skip, unit
from depthlab.probes import gradients
from depthlab.probes.inside import layers


def test_against_finite_differences():
    net = made(depth=8, width=2, norms=norm.none).double()
    x, y = torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.tensor([1, 2, 3])
    found, step = gradients(net, x, y, 0.1, sizes=[]), 1e-6
    weight = layers(net)[2][1].weight
    slope = torch.zeros_like(weight)
    with torch.no_grad():
        for place in range(weight.numel()):
            at = weight.view(-1)
            losses = []
            for side in (step, -2 * step):
                at[place] += side
                losses.append(functional.cross_entropy(net(x), y))
            at[place] += step
            slope.view(-1)[place] = (losses[0] - losses[1]) / (2 * step)
    assert found["weights"][2] == pytest.approx(slope.norm().item(), rel=1e-5)

    signal = net.units[0](net.stem(x)).detach()
    direction, slopes = torch.zeros_like(signal), []
    for place in range(0, signal.numel(), 7):
        direction.zero_().view(-1)[place] = step
        ends = [
            functional.cross_entropy(net.head(net.tail(net.units[2](net.units[1](s)))), y)
            for s in (signal + direction, signal - direction)
        ]
        slopes.append(((ends[0] - ends[1]) / (2 * step)).item())
    leaf = signal.requires_grad_()
    functional.cross_entropy(net.head(net.tail(net.units[2](net.units[1](leaf)))), y).backward()
    assert slopes == pytest.approx(leaf.grad.view(-1)[::7].tolist(), abs=1e-7)
    assert found["unit"][1] == pytest.approx(leaf.grad.norm().item(), rel=1e-9)
    assert len(found["unit"]) == 4
    assert len(found["weights"]) == 7
    assert found["weights_factor"] == max(found["weights"]) / min(found["weights"])


def test_growth_is_over_layers_not_units():
    found = gradients(made(), torch.randn(8, 3, 8, 8), torch.arange(8), 0.1, sizes=[])
    assert found["layer_factor"] == pytest.approx((found["unit"][0] / found["unit"][-1]) ** (1 / 12))


def test_batch_norm_without_shortcuts_explodes_as_in_theory():
    x = torch.randn(256, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    net = fully(26, 256, unit.original, skip.none, lambda c: norm.batch(c))
    found = gradients(net, x, torch.arange(256) % 10, 0.1, sizes=[8])
    assert found["layer_factor"] == pytest.approx(math.sqrt(math.pi / (math.pi - 1)), abs=0.015)
    assert found["layer_factor_8"] == pytest.approx(1.337, abs=0.04)


@pytest.mark.parametrize("size", [1, 9])
def test_a_size_that_is_no_batch(size):
    with pytest.raises(Mistake, match=r"probe\.gradients\.sizes=.*each from 2 to 8, the images"):
        gradients(made(), torch.randn(8, 3, 8, 8), torch.arange(8), 0.1, sizes=[size])


def test_the_layers_of_a_dense_network():
    """A weight's gradient is autograd's; a unit's input there is all that was concatenated before it."""
    net, x, y = dense(7).double(), torch.randn(6, 3, 8, 8).double(), torch.arange(6)
    found = gradients(net, x, y, 0.1, sizes=[])
    functional.cross_entropy(net.train()(x), y).backward()
    weights = [layer.weight.grad.norm().item() for _, layer, _ in layers(net)]
    assert found["weights"] == pytest.approx(weights)
    assert len(found["unit"]) == len(net.units) + 1  # and behind the last
