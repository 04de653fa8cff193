"""The change against brute force; the growth and the bits against theory."""

import copy
import math

import pytest
import torch
from test_activations import fully
from test_gradient_precision import CASES, X, Y, by_loss
from test_inside import made

from depthlab.errors import Mistake
from depthlab.network import norm, skip, unit
from depthlab.probes import gradient_precision, sensitivity


@pytest.mark.parametrize(("order", "join", "norms"), CASES)
def test_against_brute_force(order, join, norms):
    net = made(depth=8, order=order, join=join, norms=norms)
    found = sensitivity(net, X, Y, 0.1, size=1e-6, seed=3)
    twin, draw = copy.deepcopy(net).double(), torch.Generator().manual_seed(3)
    before = by_loss(copy.deepcopy(twin), X.double(), Y)
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(1 + 1e-6 * torch.randn(p.shape, generator=draw, dtype=torch.float64))
    after = by_loss(twin, X.double(), Y)
    assert found["gradient"] == pytest.approx(((after - before).norm() / before.norm()).item(), rel=1e-9)
    assert len(found["gradients"]) == 7


def test_batch_norm_without_shortcuts_amplifies_as_its_gradient_grows():
    x = torch.randn(256, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    net = fully(26, 256, unit.original, skip.none, lambda c: norm.batch(c))
    found = sensitivity(net, x, torch.arange(256) % 10, 0.1, size=1e-9, seed=0)
    assert found["signal_growth"] == pytest.approx(math.sqrt(math.pi / (math.pi - 1)), abs=0.02)


def test_at_the_bits_that_it_needs_half_of_the_gradient_is_left():
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    net, y = made(depth=32, join=skip.none, width=8), torch.arange(64) % 10
    bits = sensitivity(net, x, y, 0.1, size=1e-9, seed=0)["bits"]
    around = [str(math.floor(bits)), str(math.ceil(bits) + 1)]
    found = gradient_precision(net, x, y, 0.1, formats=around)
    assert found[f"cosine_{around[0]}"] < 0.6 < found[f"cosine_{around[1]}"]


def test_a_size_that_is_none():
    with pytest.raises(Mistake, match=r"probe\.sensitivity\.size=0: a positive number"):
        sensitivity(made(depth=8), X, Y, 0.1, size=0, seed=0)
