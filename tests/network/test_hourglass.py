"""Hourglass networks against a second implementation, written from Newell et al. 2016, Figures 3 and 4."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from conftest import option
from depthlab.data.task import OfPixels
from depthlab.errors import Mistake
from depthlab.network import activation, hourglass, init, norm, skip, unit
from depthlab.network.levels import Level
from depthlab.probes.inside import untouched


def net_of(depth, width, levels, join=skip.identity, *, connected=None, classes=3, **parts):
    order, block = parts.get("order", unit.preact), parts.get("block")
    made = order(), join, option(norm, "batch"), activation.relu
    return hourglass((1, 16, 16), classes, depth, width, block, *made, levels=levels, connected=connected)


def count(net):
    return sum(p.numel() for p in net.parameters())


def layers(net):
    return [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


class Residual(nn.Module):
    """Fig. 4, left: 1x1 to half of the channels, 3x3, 1x1, each behind a norm and a ReLU; added."""

    def __init__(self, width):
        super().__init__()
        half = width // 2
        shapes = [(width, half, 1), (half, half, 3), (half, width, 1)]
        pairs = [[nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, b, k, padding=k // 2, bias=False)] for a, b, k in shapes]
        self.layers = nn.Sequential(*[module for pair in pairs for module in pair])

    def forward(self, x):
        return x + self.layers(x)


class Glass(nn.Module):
    """Fig. 3: down and up once, with another one or a residual module inside."""

    def __init__(self, levels, width):
        super().__init__()
        self.low1 = Residual(width)
        self.low2 = Glass(levels - 1, width) if levels > 1 else Residual(width)
        self.low3, self.beside = Residual(width), Residual(width)

    def forward(self, x):
        low = self.low3(self.low2(self.low1(functional.max_pool2d(x, 2))))
        return self.beside(x) + low.repeat_interleave(2, 2).repeat_interleave(2, 3)


class Stack(nn.Module):
    """Fig. 4, right: after each hourglass the features, the predictions, and both led back to what entered it."""

    def __init__(self, n, levels, width, classes):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.glasses = nn.ModuleList()
        for number in range(n):
            lin = nn.Sequential(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            parts = [Glass(levels, width), Residual(width), lin, nn.Conv2d(width, classes, 1)]
            parts += [nn.Conv2d(width, width, 1), nn.Conv2d(classes, width, 1)] if number + 1 < n else []
            self.glasses.append(nn.ModuleList(parts))

    def forward(self, x):
        x, said = self.stem(x), []
        for glass, residual, lin, out, *back in self.glasses:
            features = lin(residual(glass(x)))
            said.append(out(features))
            for features_back, out_back in [back] if back else []:
                x = x + features_back(features) + out_back(said[-1])
        return said


@pytest.mark.parametrize(("n", "levels"), [(1, 3), (2, 2), (4, 1)])
def test_is_the_papers_function(n, levels):
    torch.manual_seed(0)
    net, theirs = net_of((9 * levels + 10) * n - 1, 8, levels), Stack(n, levels, 8, 3)
    for mine, other in zip(net.parameters(), theirs.parameters(), strict=True):
        assert mine.numel() == other.numel()
        nn.init.normal_(mine, mean=1.0 if mine.dim() == 1 else 0.0, std=0.2)
        other.data = mine.detach().view_as(other).clone()
    x = torch.randn(3, 1, 16, 24)
    said = net.train()(x)
    wanted = torch.stack(theirs.train()(x))
    assert torch.allclose(said if n > 1 else said[None], wanted, rtol=1e-3, atol=1e-4)
    assert wanted.std() > 0.1
    assert torch.allclose(net.eval()(x), theirs.eval()(x)[-1], rtol=1e-3, atol=1e-4)


def test_the_papers_size():
    """Width 256, four levels, a hourglass more: counted by hand from Figures 3 and 4, without biases before norms."""
    unit_ = 512 + 256 * 128 + 256 + 9 * 128 * 128 + 256 + 128 * 256
    glass = 14 * unit_ + 256 * 256 + 512 + 256 * 16 + 16
    led_back = 256 * 256 + 256 + 16 * 256 + 256
    with torch.device("meta"):
        one, two, eight = (net_of(46 * n - 1, 256, 4, classes=16) for n in (1, 2, 8))
    assert count(one) == 9 * 256 + glass
    assert count(two) - count(one) == glass + led_back
    assert count(eight) - count(one) == 7 * (glass + led_back)


@pytest.mark.parametrize("join", [skip.identity, skip.none, skip.conv])
@pytest.mark.parametrize(
    ("n", "levels", "block", "order"), [(1, 1, "basic", "original"), (2, 2, "bottleneck", "preact")]
)
def test_depth_counts_the_layers_and_each_is_trained(join, n, levels, block, order):
    each = {"basic": 2, "bottleneck": 3}[block] * (3 * levels + 2) + 4
    net = net_of(each * n - 1, 4, levels, join, block=block, order=getattr(unit, order))
    more = n * levels if join is skip.conv else 0  # its own, one a connection
    assert len(layers(net)) == each * n - 1 + more
    net.activation = "relu"
    torch.manual_seed(0)
    init.kaiming(net, fan="fan_in", distribution="normal", gain=None, zero_last=False)
    OfPixels(3).loss(net(torch.randn(2, 1, 16, 16)), torch.randint(3, (2, 16, 16))).backward()
    assert all(
        p.grad is not None and p.grad.abs().max() > 0 for n, p in net.named_parameters() if n.endswith("weight")
    )


def test_the_plain_twin_has_the_same_layers_in_a_chain():
    plain, added = net_of(27, 8, 2, skip.none), net_of(27, 8, 2)
    assert {n: p.shape for n, p in plain.named_parameters()} == {n: p.shape for n, p in added.named_parameters()}
    plain.load_state_dict(added.state_dict())
    x = torch.randn(2, 1, 16, 16)
    assert not torch.allclose(plain(x), added(x), atol=1e-2)
    levels = [m for m in net_of(27, 8, 2, connected=[2]).modules() if isinstance(m, Level)]
    assert [level.skip is not None for level in levels] == [False, True]


def test_the_losses_of_all_hourglasses_are_added_and_the_last_one_is_judged():
    net, task, y = net_of(55, 4, 2), OfPixels(3), torch.randint(3, (2, 16, 16))
    x = torch.randn(2, 1, 16, 16)
    said = net.train()(x)
    assert said.shape == (2, 2, 3, 16, 16)
    assert torch.equal(
        task.loss(said, y), functional.cross_entropy(said[0], y) + functional.cross_entropy(said[1], y)
    )
    assert torch.equal(net.eval()(x), net(x)[None][-1])
    with untouched(net):  # a probe hears the answer alone
        assert net.train()(x).shape == (2, 3, 16, 16)
    assert net.train()(x).shape == (2, 2, 3, 16, 16)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (
            {"depth": 28},
            "depth=28: with network.levels=2 bottleneck hourglasses have 28n-1 layers: nearest 27 and 55",
        ),
        ({"depth": 3}, "depth=3: with network.levels=2 bottleneck hourglasses have 28n-1 layers: nearest 27"),
        ({"block": "single"}, "block=single: (allowed: basic, bottleneck)"),
        ({"width": 1}, "width=1: at least 2 (bottleneck blocks have parts of it)"),
        (
            {"join": skip.concat},
            "skip=concat: joins in network=densenet and network=unet; the others add (skip=identity)",
        ),
        ({"join": skip.none, "connected": [1]}, "network.connected: skip=none connects no level; leave it out"),
    ],
)
def test_mistakes(keys, told):
    with pytest.raises(Mistake) as mistake:
        net_of(**{"depth": 27, "width": 4, "levels": 2} | keys)
    assert str(mistake.value) == told
