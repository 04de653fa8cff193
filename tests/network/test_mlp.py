"""Fully connected networks against closed forms and a loop of matrix products."""

import re
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from conftest import ADDING, option, presets
from depthlab.errors import Mistake
from depthlab.network import activation, init, mlp, norm, skip, unit
from depthlab.network.mlp import LAYERS
from depthlab.network.resnet import Network


def build(depth, block=None, order=unit.original, join=skip.identity, made=norm.batch, act=activation.relu, **sizes):
    torch.manual_seed(0)
    shape, width = sizes.get("shape", (3, 4, 5)), sizes.get("width", 8)
    return mlp(shape, 7, depth, width, block, order(), join, made, act)


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("order", presets("unit"))
@pytest.mark.parametrize(("block", "depth"), [(None, 3), (None, 10), ("single", 4), ("basic", 4), ("basic", 10)])
def test_weighted_layers(block, depth, order):
    net = build(depth, block, option(unit, order), skip.none)
    layers = [m for m in net.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in layers] == [(60, 8), *[(8, 8)] * (depth - 2), (8, 7)]
    assert len(net.units) == (depth - 2) / (2 if block == "basic" else 1)
    assert net(torch.randn(2, 3, 4, 5)).shape == (2, 7)


@pytest.mark.parametrize("made", ["none", "batch"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (2, 1, 3)])
@pytest.mark.parametrize(("depth", "block"), [(5, None), (8, "basic"), (100, None)])
def test_parameters(depth, block, shape, made):
    """A norm has two vectors for the one of a bias; an identity shortcut has nothing."""
    pixels = shape[0] * shape[1] * shape[2]
    wanted = (pixels + (depth - 2) * 8) * 8 + (depth - 1) * 8 * (1 if made == "none" else 2) + 8 * 7 + 7
    for join in (skip.none, skip.identity):
        assert count(build(depth, block, join=join, made=option(norm, made), shape=shape)) == wanted


@pytest.mark.parametrize("order", ["original", "preact"])
@pytest.mark.parametrize("join", ["none", "identity"])
@pytest.mark.parametrize(("block", "layers"), [("single", 1), ("basic", 2)])
def test_a_loop_of_matrix_products(block, layers, join, order):
    parts = option(unit, order), option(skip, join), norm.none, activation.tanh
    net = build(3 * layers + 2, block, *parts).double()
    for bias in (p for name, p in net.named_parameters() if name.endswith("bias")):
        nn.init.normal_(bias)
    images = torch.randn(5, 3, 4, 5, dtype=torch.float64)
    first, *inner, head = ((m.weight, m.bias) for m in net.modules() if isinstance(m, nn.Linear))
    x = (images.reshape(5, 60) @ first[0].T + first[1]).tanh()
    for u in range(3):
        f = x
        for i, (w, b) in enumerate(inner[u * layers : (u + 1) * layers]):
            if order == "preact" and (u, i) != (0, 0):
                f = f.tanh()
            f = f @ w.T + b
            if order == "original" and i < layers - 1:
                f = f.tanh()
        x = f + x if join == "identity" else f
        x = x.tanh() if order == "original" or u == 2 else x
    x = x @ head[0].T + head[1]
    torch.testing.assert_close(net(images), x)


def accepted(depth, block):
    try:
        return build(depth, block, join=skip.none, width=2)
    except Mistake as mistake:
        return str(mistake)


@settings(max_examples=60, deadline=None)
@given(st.integers(-5, 40), st.sampled_from([None, *LAYERS]))
def test_depths(depth, block):
    answer, layers = accepted(depth, block), 2 if block == "basic" else 1
    valid = range(layers + 2, 60, layers)
    assert isinstance(answer, Network) == (depth in valid)
    if isinstance(answer, Network):
        assert sum(isinstance(m, nn.Linear) for m in answer.modules()) == depth
        return
    nearest = [*[v for v in valid if v < depth][-1:], *[v for v in valid if v > depth][:1]]
    assert re.findall(r"\d+", answer.partition("nearest")[2]) == [str(v) for v in nearest]
    assert all(isinstance(accepted(near, block), Network) for near in nearest)


@pytest.mark.parametrize(
    ("depth", "block", "message"),
    [
        (2, None, "depth=2: single blocks make n+2 layers: nearest 3"),
        (3, "basic", "depth=3: basic blocks make 2n+2 layers: nearest 4"),
        (9, "basic", "depth=9: basic blocks make 2n+2 layers: nearest 8 and 10"),
        (9, "bottleneck", "block=bottleneck: (allowed: single, basic)"),
        (9, "singel", "block=singel: did you mean single? (allowed: single, basic)"),
    ],
)
def test_mistakes(depth, block, message):
    assert accepted(depth, block) == message


def test_its_units_add():
    with pytest.raises(Mistake, match=r"^skip=concat: joins in network=densenet"):
        build(6, None, join=skip.concat)


@pytest.mark.parametrize("made", presets("norm"))
@pytest.mark.parametrize("order", presets("unit"))
def test_every_combination_trains(order, made):
    for join, block in product(ADDING, LAYERS):
        net = build(6, block, option(unit, order), option(skip, join), option(norm, made))
        net.activation = "relu"
        option(init, "kaiming")(net)
        images = torch.randn(4, 3, 4, 5)
        if made == "instance":
            with pytest.raises(Mistake, match=r"one value has no variance"):
                net(images)
            continue
        logits = net(images)
        nn.functional.cross_entropy(logits, torch.arange(4)).backward()
        assert logits.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters()), (join, block)
        assert next(net.parameters()).grad.abs().max() > 0, (join, block)
