"""Activations against their closed forms."""

import inspect
import math

import pytest
import torch
from torch import nn

from conftest import presets
from depthlab.config import bind
from depthlab.network import activation, init

PRESETS = presets("activation")
OPTIONS = {name for name, f in vars(activation).items() if inspect.isfunction(f) and name[0] != "_"}

FORMULAS = {
    "relu": lambda x: max(x, 0.0),
    "tanh": lambda x: (math.exp(x) - math.exp(-x)) / (math.exp(x) + math.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "identity": lambda x: x,
}


def make(preset):
    return bind(activation, PRESETS[preset], "activation")()


def test_every_option_has_a_preset():
    assert {values["name"] for values in PRESETS.values()} == OPTIONS


@pytest.mark.parametrize("preset", FORMULAS)
def test_is_its_formula(preset):
    x = torch.tensor([-9.0, -1.5, -0.25, 0.0, 0.25, 1.5, 9.0], dtype=torch.float64)
    wanted = torch.tensor([FORMULAS[preset](value) for value in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(make(preset)(x), wanted)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2, 2)])
@pytest.mark.parametrize("preset", PRESETS)
def test_gradient(preset, shape):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert make(preset)(x).shape == x.shape
    assert torch.autograd.gradcheck(make(preset), x)


@pytest.mark.parametrize("preset", PRESETS)
def test_leaves_its_input(preset):
    """The input is the shortcut's, too."""
    x = torch.linspace(-2, 2, 9)
    before = x.clone()
    make(preset)(x)
    assert x.equal(before)


@pytest.mark.parametrize(
    ("preset", "gain"), [("relu", math.sqrt(2)), ("identity", 1), ("sigmoid", 1), ("tanh", 5 / 3)]
)
def test_gain(preset, gain):
    assert spread(preset) == pytest.approx(gain, rel=0.02)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_usual_init_has_a_gain_for_it(preset):
    assert spread(preset) > 0


def spread(preset):
    """sqrt(fan_in) x std of a layer that init=kaiming fills in a network with this activation."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(100, 400))
    net.activation = PRESETS[preset]["name"]
    init.kaiming(net, fan="fan_in", distribution="normal", gain=None, zero_last=False)
    return net[0].weight.std().item() * 10
