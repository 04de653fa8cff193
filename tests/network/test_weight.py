"""How weights are made, against the papers' equations and torch's convolution."""

import inspect
from itertools import pairwise
from math import pi, sqrt

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conftest import option, presets
from depthlab.errors import Mistake
from depthlab.network import activation, init, mlp, norm, skip, unit, weight
from depthlab.network.place import Place

PRESETS = presets("weight")
OPTIONS = {
    name
    for name, f in vars(weight).items()
    if getattr(f, "__module__", None) == weight.__name__ and name[0].islower()
}
GEOMETRIES = [(3, 6, 3, 1), (6, 3, 3, 2), (4, 8, 1, 2), (4, 4, 1, 1), (3, 8, 7, 2)]
UNIT, STEM = Place(20, 9, 2), Place(20, 9, 0)


def make(preset, geometry, place=UNIT, bias=True):
    torch.manual_seed(0)
    made, (channels, out, kernel, stride) = option(weight, preset), geometry
    return made(
        channels,
        out,
        (kernel, kernel),
        stride,
        bias,
        **({"place": place} if "place" in inspect.signature(made).parameters else {}),
    )


def test_every_option_has_a_preset():
    assert {values["name"] for values in PRESETS.values()} == OPTIONS


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("place", [UNIT, STEM], ids=["unit", "stem"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_is_torchs_convolution_of_the_made_weights(preset, geometry, place, device):
    with torch.device(device):
        layer, x = make(preset, geometry, place), torch.randn(2, geometry[0], 9, 9)
    channels, out, kernel, stride = geometry
    made = layer.made() if hasattr(layer, "made") else layer.weight
    assert made.shape == layer.weight.shape == (out, channels, kernel, kernel)
    assert isinstance(layer, nn.Conv2d)
    y = layer(x)
    assert y.shape == (2, out, -(-9 // stride), -(-9 // stride))
    if device == "cpu":
        torch.testing.assert_close(y, F.conv2d(x, made, layer.bias, stride, kernel // 2))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_gradient(preset, geometry):
    layer = make(preset, geometry).double()
    x = torch.randn(2, geometry[0], 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *parameters: layer(x), (x, *layer.parameters()))


@pytest.mark.parametrize(("place", "gain"), [(UNIT, sqrt(2 / (1 - 1 / pi))), (STEM, 1.0)])
def test_standardised_is_brocks_equation_1(place, gain):
    layer = make("standardised", (5, 7, 3, 1), place)
    w = layer.weight.detach().double().numpy()
    mean, sigma = w.mean((1, 2, 3), keepdims=True), w.std((1, 2, 3), keepdims=True)
    wanted = torch.tensor(gain * (w - mean) / (sigma * sqrt(45))).float()
    torch.testing.assert_close(layer.made(), wanted, rtol=1e-4, atol=1e-6)
    assert layer.gain.eq(1).all()
    assert sum(p.numel() for p in layer.parameters()) == 5 * 7 * 9 + 7 + 7


def test_standardised_takes_weights_that_are_all_alike():
    layer = make("standardised", (5, 7, 3, 1))
    nn.init.zeros_(layer.weight)
    layer(torch.randn(2, 5, 4, 4)).sum().backward()
    assert layer.weight.grad.isfinite().all()
    assert not layer.made().any()


def test_dirac_is_the_identity_plus_a_tenth_of_unit_weights():
    """Zagoruyko & Komodakis 2017, section 3: diag(a) I + diag(b) W / ||W||, a = 1, b = 0.1."""
    layer = make("dirac", (6, 6, 3, 1), bias=False)
    x = torch.randn(2, 6, 5, 5)
    unit_weights = layer.weight / layer.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(layer(x), x + 0.1 * F.conv2d(x, unit_weights, padding=1))
    assert sum(p.numel() for p in layer.parameters()) == 6 * 6 * 9 + 2 * 6
    assert set(layer.state_dict()) == {"weight", "a", "b"}


def test_diracs_first_layer_is_plain():
    layer = make("dirac", (3, 6, 3, 1), STEM)
    assert layer.made() is layer.weight
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias"}


@pytest.mark.parametrize("preset", sorted(PRESETS.keys() - {"plain"}))
def test_a_fully_connected_network_has_no_convolutions(preset):
    parts = unit.original(), skip.none, norm.batch, activation.relu, option(weight, preset)
    with pytest.raises(Mistake, match=f"weight={preset}: of convolutions, and network=mlp has none"):
        mlp((1, 2, 2), 3, 6, 8, None, *parts)


def test_standardised_nf_networks_have_the_predicted_variance():
    """Brock et al. 2021, section 3: 1 + k alpha^2 after k units of a stage, with projections between the stages."""
    from depthlab.network import resnet

    torch.manual_seed(0)
    parts = unit.preact(), option(skip, "nf"), norm.none, activation.relu, option(weight, "standardised")
    net = resnet((64, 16, 16), 10, 20, 64, None, *parts, family="cifar", shortcut="B", stride_in="1x1")
    net.activation = "relu"
    init.kaiming(net, fan="fan_in", distribution="normal", gain=None, zero_last=False)
    x = net.stem[:1](torch.randn(16, 64, 16, 16))
    x = net.stem[1:](x)
    found = []
    with torch.no_grad():
        for u in net.units[:3]:
            x = u(x)
            found.append(x.var().item())
    # the stem ends in the first unit's activation, whose output has the mean square 1/2
    assert [b - a for a, b in pairwise(found)] == pytest.approx([0.04, 0.04], rel=0.35)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_signals_kernel_is_one_high(preset):
    layer = option(weight, preset)(4, 6, (1, 3), 2, True)
    assert layer.weight.shape == (6, 4, 1, 3)
    assert layer(torch.randn(2, 4, 1, 9)).shape == (2, 6, 1, 5)
