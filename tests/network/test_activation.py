"""Activations against their closed forms."""

import inspect
import math

import pytest
import torch
from torch import nn

from conftest import presets
from depthlab.config import bind
from depthlab.errors import Mistake
from depthlab.network import activation, init
from depthlab.network.place import Place

PRESETS = presets("activation")
OPTIONS = {
    name
    for name, f in vars(activation).items()
    if inspect.isfunction(f) and f.__module__ == activation.__name__ and name[0] != "_"
}

FORMULAS = {
    "relu": lambda x: max(x, 0.0),
    "tanh": lambda x: (math.exp(x) - math.exp(-x)) / (math.exp(x) + math.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "identity": lambda x: x,
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "tailored": lambda x: math.sqrt(2) * max(x, 0.0),  # of a network of three layers: a ReLU, its mean square kept
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
    x = torch.linspace(-2, 2, 8).view(2, 4)
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


# tailored: the slope, as the authors' own package gives it


@pytest.mark.parametrize(("depth", "slope"), [(20, 0.1814), (56, 0.4558), (110, 0.5871)])
def test_slopes_are_those_of_the_authors_package(depth, slope):
    """dks 0.1.2: get_transformed_activations(("leaky_relu",), method="TAT"), a chain of `depth`, eta 0.9."""
    assert activation.tailored(Place(depth), eta=0.9).slope == pytest.approx(slope, abs=5e-5)


@pytest.mark.parametrize(("depth", "eta"), [(20, 0.9), (40, 0.5)])
def test_a_chain_brings_orthogonal_inputs_to_eta(depth, eta):
    """An infinitely wide one, each layer's expectation over a million pairs of correlated normals."""
    act, random = activation.tailored(Place(depth), eta=eta), torch.Generator().manual_seed(0)
    cosine = 0.0
    for _ in range(depth):
        u, v = torch.randn(2, 2**20, generator=random)
        a, b = act(u), act(cosine * u + (1 - cosine**2) ** 0.5 * v)
        assert a.square().mean() == pytest.approx(1, rel=0.01)
        cosine = ((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt()).item()
    assert cosine == pytest.approx(eta, abs=0.01)


@pytest.mark.parametrize("eta", [0.0, 1.0, -1.0, float("nan")])
def test_eta_is_between_nothing_and_all(eta):
    with pytest.raises(Mistake, match=r"activation\.eta=.*: above 0 and under 1"):
        activation.tailored(Place(20), eta=eta)


def test_a_leaky_relus_gain_is_that_of_its_slope():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(100, 400), activation.leaky_relu(slope=0.5))
    net.activation = "leaky_relu"
    init.kaiming(net, fan="fan_in", distribution="normal", gain=None, zero_last=False)
    assert net[0].weight.std().item() * 10 == pytest.approx(nn.init.calculate_gain("leaky_relu", 0.5), rel=0.02)


# mirrored


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 2, 2)])
def test_a_mirrored_relu_is_the_concatenated_one_of_the_differences(shape):
    x = torch.randn(shape)
    z = x[:, 0::2] - x[:, 1::2]
    y = make("mirrored_relu")(x)
    assert torch.cat([y[:, 0::2], y[:, 1::2]], 1).equal(torch.cat([z.clamp(min=0), (-z).clamp(min=0)], 1))


def test_it_needs_pairs():
    with pytest.raises(Mistake, match="activation=mirrored_relu: pairs channels, and 5 is odd"):
        make("mirrored_relu")(torch.ones(2, 5))
