"""U-Nets against the paper's layer table: its number of parameters, and a second implementation written from it."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from conftest import option, presets
from depthlab import network
from depthlab.errors import Mistake
from depthlab.network import activation, init, norm, skip, unet, unit
from depthlab.network.levels import Level


def net_of(depth, width, levels, join=skip.concat, *, padded=True, connected=None, shape=(1, 32, 32), **parts):
    order, normed = parts.get("order", unit.original), parts.get("norm", norm.none)
    block, classes = parts.get("block"), parts.get("classes", 2)
    keys = {"levels": levels, "padded": padded, "connected": connected}
    return unet(shape, classes, depth, width, block, order(), join, normed, activation.relu, **keys)


def count(net):
    return sum(p.numel() for p in net.parameters())


def layers(net):
    return [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


class Table(nn.Module):
    """Ronneberger et al. 2015, Fig. 1 and section 2, written down layer by layer: two 3x3 convolutions and a 2x2
    maximum a level; up: a 2x2 up-convolution, the crop beside it, two convolutions; at the end a 1x1 convolution.
    """

    def __init__(self, width, levels, classes, pad, how):
        super().__init__()
        self.how = how
        sizes = [width * 2**i for i in range(levels + 1)]
        self.down = nn.ModuleList(self.two(a, b, pad) for a, b in zip([1, *sizes], sizes, strict=False))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairwise(sizes))
        beside = [2 if how.get(i + 1, how.get("all")) == "concat" else 1 for i in range(levels)]
        self.up = nn.ModuleList(self.two(k * a, a, pad) for k, a in zip(beside, sizes, strict=False))
        self.last = nn.Conv2d(width, classes, 1)

    @staticmethod
    def two(channels, out, pad):
        return nn.ModuleList([nn.Conv2d(channels, out, 3, padding=pad), nn.Conv2d(out, out, 3, padding=pad)])

    def forward(self, x):
        kept = []
        for number, (one, two) in enumerate(self.down):
            x = functional.max_pool2d(x, 2) if number else x
            x = two(one(x).relu()).relu()
            kept.append(x)
        for level in range(len(self.ups), 0, -1):
            x = self.ups[level - 1](x)
            beside, how = kept[level - 1], self.how.get(level, self.how.get("all"))
            edge = (beside.shape[2] - x.shape[2]) // 2
            beside = beside[:, :, edge : edge + x.shape[2], edge : edge + x.shape[3]]
            x = torch.cat([beside, x], 1) if how == "concat" else beside + x if how == "identity" else x
            one, two = self.up[level - 1]
            x = two(one(x).relu()).relu()
        return self.last(x)

    def fill(self, net):
        """Our weights: ours come in the order of computing, and an up-convolution's four pixels are four channels."""
        state = {name: p.detach() for name, p in net.named_parameters()}
        names = [name for name, m in net.named_modules() if m in layers(net)]
        convs = [(state[f"{name}.weight"], state.get(f"{name}.bias")) for name in names]
        ups = [b for name, b in state.items() if name.endswith("up.2.bias")][::-1]
        pairs = iter(convs)
        for pair in self.down:
            self.copy(pair, pairs)
        for level in range(len(self.ups), 0, -1):
            up, (weight, _) = self.ups[level - 1], next(pairs)
            up.weight.data = weight[:, :, 0, 0].T.unflatten(1, (-1, 2, 2))
            up.bias.data = ups[level - 1]
            self.copy(self.up[level - 1], pairs)
        weight, bias = next(pairs)
        self.last.weight.data, self.last.bias.data = weight[:, :, None, None], bias

    def copy(self, convs, pairs):
        for conv in convs:
            conv.weight.data, conv.bias.data = next(pairs)


def test_the_papers_network_has_its_parameters_layers_and_sizes():
    """31,030,658: from the layer table, biases included; 23 layers: section 2; 572 and 388 pixels: Fig. 1."""
    preset = option(network, "unet_original")
    with torch.device("meta"):
        parts = unit.original(), skip.concat, norm.none, activation.relu
        net = preset((1, 572, 572), 2, 23, 64, None, *parts)
        assert count(net) == count(Table(64, 4, 2, 0, {"all": "concat"})) == 31_030_658
        assert len(layers(net)) == 23
        assert net.left(572) == 388
        assert net.framed(torch.empty(1, 1, 388, 388)).shape[2:] == (572, 572)
        assert net(torch.empty(1, 1, 388, 388)).shape == (1, 2, 388, 388)


@pytest.mark.parametrize(
    ("padded", "levels", "join", "connected", "how"),
    [
        (False, 4, skip.concat, None, {"all": "concat"}),
        (False, 2, skip.identity, None, {"all": "identity"}),
        (True, 2, skip.none, None, {}),
        (True, 3, skip.concat, [2], {2: "concat"}),
        (True, 2, skip.concat, [1, 2], {"all": "concat"}),
        (True, 2, skip.identity, [1], {1: "identity"}),
    ],
)
def test_is_the_layer_tables_function(padded, levels, join, connected, how):
    torch.manual_seed(0)
    net = net_of(5 * levels + 3, 2, levels, join, padded=padded, connected=connected)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs = Table(2, levels, 2, int(padded), how)
    theirs.fill(net)
    assert count(net) == count(theirs)
    x, edge = (torch.randn(1, 1, 100, 116), 92) if levels == 4 else (torch.randn(2, 1, 40, 48), 20)
    given = x if padded else functional.pad(x, (edge,) * 4, mode="reflect")
    assert torch.allclose(net(x), theirs(given), rtol=1e-4, atol=1e-5)
    assert net(x).std() > 0.01


@pytest.mark.parametrize(("levels", "n"), [(1, 1), (2, 2), (3, 1), (4, 3)])
@pytest.mark.parametrize("order", presets("unit"))
def test_depth_counts_the_layers_and_each_is_trained(levels, n, order):
    depth = (4 * levels + 2) * n + levels + 1
    net = net_of(depth, 4, levels, order=getattr(unit, order), norm=option(norm, "batch"))
    assert len(layers(net)) == depth
    net.activation = "relu"
    torch.manual_seed(0)
    init.kaiming(net, fan="fan_in", distribution="normal", gain=None, zero_last=False)
    functional.cross_entropy(net(torch.randn(2, 1, 32, 32)), torch.randint(2, (2, 32, 32))).backward()
    assert all(
        p.grad is not None and p.grad.abs().max() > 0 for n, p in net.named_parameters() if n.endswith("weight")
    )


def test_joined_by_addition_the_network_has_the_plain_twins_parameters():
    plain, added, dense = (count(net_of(18, 8, 3, join)) for join in (skip.none, skip.identity, skip.concat))
    assert plain == added < dense


@pytest.mark.parametrize("side", [(32, 32), (30, 45), (17, 9)])
def test_any_size_comes_back(side):
    net = net_of(18, 2, 3)
    assert net(torch.randn(1, 1, *side)).shape == (1, 2, *side)


def test_a_level_that_is_not_connected_sees_only_what_comes_from_below():
    net = net_of(18, 4, 3, connected=[1, 3])
    levels = [m for m in net.modules() if isinstance(m, Level)]
    assert [level.skip is not None for level in levels] == [True, False, True]
    assert [
        next(layer for layer in level.after.modules() if isinstance(layer, nn.Conv2d)).in_channels for level in levels
    ] == [8, 8, 32]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"depth": 19}, "depth=19: with network.levels=3 a U-Net has 14n+4 layers: nearest 18 and 32"),
        ({"depth": 4}, "depth=4: with network.levels=3 a U-Net has 14n+4 layers: nearest 18"),
        ({"levels": 0}, "network.levels=0: from 1 to 8"),
        ({"connected": [1, 4]}, "network.connected=4: from 1 to 3 (the levels, the largest first)"),
        ({"join": skip.none, "connected": [1]}, "network.connected: skip=none connects no level; leave it out"),
        ({"join": option(skip, "nf")}, "skip=nf: scales what enters a residual unit; a connection has none"),
        ({"block": "single"}, "block=single: (allowed: basic)"),
    ],
)
def test_mistakes(keys, told):
    with pytest.raises(Mistake) as mistake:
        net_of(**{"depth": 18, "width": 4, "levels": 3} | keys)
    assert str(mistake.value) == told


def test_an_image_too_small_for_what_a_mirror_gives_is_told():
    with pytest.raises(Mistake) as mistake:
        net_of(23, 2, 4, padded=False)(torch.zeros(1, 1, 32, 48))
    assert str(mistake.value) == (
        "network.levels=4: images of 32x48 pixels would need 94 more on a side, and a mirror gives fewer; choose "
        "larger images or fewer levels"
    )
