"""Dense networks against Huang et al.'s published counts, torchvision's networks, and a second implementation."""

import re

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from conftest import presets
from depthlab.errors import Mistake
from depthlab.network import activation, densenet, init, norm, skip, unit
from depthlab.network.densenet import IMAGENET, UNITS, Halved, from_torchvision, to_torchvision
from depthlab.network.resnet import Network

ORDERS = {name: getattr(unit, name) for name in presets("unit")}


def dense(depth, growth=12, *, bc=False, join=skip.concat, order=unit.preact, block=None, **changes):
    shape, classes, width = changes.pop("shape", (3, 32, 32)), changes.pop("classes", 10), changes.pop("width", 16)
    keys = {"family": "cifar", "bottleneck": bc, "compression": 0.5 if bc else 1.0} | changes
    parts = order(), join, norm.batch, activation.relu
    return densenet(shape, classes, depth, width, block, *parts, growth=growth, **keys)


def on_meta(*arguments, **changes):
    with torch.device("meta"):
        return dense(*arguments, **changes).eval()


def count(net):
    return sum(p.numel() for p in net.parameters())


def layers(net):
    return [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


# published counts


@pytest.mark.parametrize(
    ("depth", "growth", "bc", "exact", "millions"),  # Huang et al. 2017, Table 2
    [
        (40, 12, False, 1_019_722, "1.0"),
        (100, 12, False, None, "7.0"),
        (100, 24, False, None, "27.2"),
        (100, 12, True, 769_162, "0.8"),
        (250, 24, True, None, "15.3"),
        (190, 40, True, 25_624_430, "25.6"),
    ],
)
def test_table_2(depth, growth, bc, exact, millions):
    net = on_meta(depth, growth, bc=bc)
    assert count(net) == (exact or count(net))
    assert f"{count(net) / 1e6:.1f}" == millions
    assert len(layers(net)) == len(layers(on_meta(depth, growth, bc=bc, join=skip.none))) == depth


@pytest.mark.parametrize(("depth", "growth"), [(121, 32), (161, 48), (169, 32), (201, 32)])
def test_torchvisions_published_counts(depth, growth):
    published = torchvision.models.get_model_weights(f"densenet{depth}").IMAGENET1K_V1.meta["num_params"]
    net = on_meta(depth, growth, bc=True, family="imagenet", classes=1000)
    assert count(net) == published
    assert len(layers(net)) == depth


# the same function


@pytest.mark.parametrize(("depth", "growth"), [(121, 32), (161, 48), (169, 32), (201, 32)])
def test_is_torchvisions(depth, growth):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, f"densenet{depth}")().eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    ours = on_meta(depth, growth, bc=True, family="imagenet", classes=1000)
    state = from_torchvision(theirs.state_dict())
    ours.load_state_dict(state, assign=True)
    x = torch.randn(1, 3, 72, 56)  # sides that are odd at a transition
    with torch.no_grad():
        wanted = theirs(x)
        assert wanted.std() > 1e-3
        torch.testing.assert_close(ours(x), wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())
    assert list(to_torchvision(state)) == list(theirs.state_dict())


def second(net, x, n, bottleneck):
    """Huang et al. 2017, section 3, written down once more, with lists of features instead of joins."""

    def layer(module, signal):
        parts = [*module.before, *module.branch]
        assert len(parts) == (6 if bottleneck and module.skip is not None else 3)
        for part in parts:
            signal = part(signal)
        return signal

    units, features = iter(net.units), [net.stem.conv1(x)]
    for block in range(3):
        for _ in range(n):
            features.append(layer(next(units), torch.cat(features, 1)))
        if block < 2:
            features = [functional.avg_pool2d(layer(next(units), torch.cat(features, 1)), 2)]
    last = functional.relu(net.tail.norm(torch.cat(features, 1)))
    return net.head(last.mean((2, 3)))


@pytest.mark.parametrize(("depth", "bc", "n"), [(13, False, 3), (16, True, 2)])
def test_is_the_papers_network(depth, bc, n):
    torch.manual_seed(0)
    net, x = dense(depth, 5, bc=bc), torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(net(x), second(net, x, n, bc), rtol=1e-5, atol=1e-5)


def test_the_plain_twin_is_a_chain_of_the_same_layers():
    torch.manual_seed(0)
    net, x = dense(13, 5, join=skip.none), torch.randn(4, 3, 8, 8)
    signal = net.stem(x)
    assert [*net.stem] == [net.stem.conv1]
    for module in net.units:
        signal = module.branch(functional.relu(module.before.norm1(signal)))
        signal = functional.avg_pool2d(signal, 2) if module in (net.stages[1][0], net.stages[2][0]) else signal
    torch.testing.assert_close(net.head(net.tail(signal)), net(x))
    twin = dense(13, 5)
    assert [m.out_channels for m in layers(net)[1:-1] if m.kernel_size == (3, 3)] == [5] * 9
    assert [m.out_channels for m in layers(twin)[1:-1] if m.kernel_size == (3, 3)] == [5] * 9


@pytest.mark.parametrize("order", UNITS)
def test_each_order_that_applies_keeps_what_came_before(order):
    """What enters a stage is in its output, in the same channels, up to the activation behind a join."""
    torch.manual_seed(0)
    net = dense(13, 4, order=ORDERS[order])
    x = net.stem(torch.randn(2, 3, 8, 8))
    out = net.stages[0](x)
    assert torch.equal(out[:, :16], x.relu() if ORDERS[order]().after else x)
    assert out.shape[1] == 16 + 3 * 4


@pytest.mark.parametrize("order", sorted(ORDERS.keys() - {*UNITS}))
def test_other_orders_are_refused(order):
    with pytest.raises(Mistake, match=r"^unit: puts a norm behind the join; with network=densenet it is one of orig"):
        dense(13, order=ORDERS[order])


@pytest.mark.parametrize("shape", [(1, 1, 40), (3, 1, 1), (2, 5, 3)])
def test_any_size_is_halved_until_it_is_a_pixel(shape):
    x = torch.randn(2, *shape)
    assert dense(13, 4, shape=shape)(x).shape == (2, 10)
    assert Halved()(x).shape[2:] == tuple(max(side // 2, 1) for side in shape[1:])


@pytest.mark.parametrize(("fill", "zeroed"), [(init.torch, {"zero_last": True}), (init.fixup, {})])
def test_branches_of_zeros_are_refused(fill, zeroed):
    """Behind a norm a channel of zeros stays zero, and the ReLU after it has no slope there."""
    net = dense(7, 4)
    net.activation = "relu"
    with pytest.raises(Mistake, match=r"\(skip=concat\) that begin at zero never learn"):
        fill(net, **zeroed)
    plain = dense(7, 4, join=skip.none)
    plain.activation = "relu"
    with pytest.raises(Mistake, match="no unit has a shortcut"):
        fill(plain, **zeroed)


# mistakes


def accepted(depth, *, bc=False, **changes):
    try:
        return on_meta(depth, 2, bc=bc, **changes)
    except Mistake as mistake:
        return str(mistake)


@settings(max_examples=40, deadline=None)
@given(st.integers(-20, 60), st.booleans())
def test_depths(depth, bc):
    answer, period = accepted(depth, bc=bc), 6 if bc else 3
    valid = [period * n + 4 for n in range(1, 40)]
    assert isinstance(answer, Network) == (depth in valid)
    if isinstance(answer, Network):
        assert len(layers(answer)) == depth
        return
    name = "bottleneck" if bc else "single"
    assert answer.startswith(f"depth={depth}: dense {name} blocks make {period}n+4 layers: nearest ")
    nearest = {max((v for v in valid if v < depth), default=None), min(v for v in valid if v > depth)} - {None}
    assert set(map(int, re.findall(r"\d+", answer.partition("nearest ")[2]))) == nearest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 122, "family": "imagenet", "bc": True},
         "depth=122: nearest 121 and 161 (allowed: 121, 161, 169, 201)"),
        ({"depth": 121, "family": "imagenet"},
         "network.bottleneck=false: the ImageNet networks are made of bottlenecks (nearest: true)"),
        ({"growth": 0}, "network.growth=0: from 1 to 4096 (nearest: 1)"),
        ({"growth": 5000}, "network.growth=5000: from 1 to 4096 (nearest: 4096)"),
        ({"compression": 1.5}, "network.compression=1.5: above 0 and at most 1 (nearest: 1)"),
        ({"compression": 0.0}, "network.compression=0: above 0 and at most 1 (nearest: 1)"),
        ({"join": skip.identity},
         "skip=identity: network=densenet joins by skip=concat; skip=none is its plain twin"),
        ({"block": "basic"}, "block=basic: with network.bottleneck=false it is single; leave it out"),
    ],
)  # fmt: skip
def test_mistakes(changes, message):
    with pytest.raises(Mistake) as mistake:
        on_meta(**{"depth": 13} | changes)
    assert str(mistake.value) == message


def test_a_transition_keeps_its_share_of_the_channels_and_at_least_one():
    widths = {0.5: (26, 31), 0.01: (1, 1), 1.0: (52, 88)}  # 16 + 3 x 12, then what is left + 36
    for share, wanted in widths.items():
        net = on_meta(13, compression=share)
        assert tuple(net.stages[s][0].branch.conv1.out_channels for s in (1, 2)) == wanted


def test_counts_of_units_make_the_depths_of_table_1():
    assert all(2 * sum(counts) + 5 == depth for depth, counts in IMAGENET.items())
