"""Inits: spreads against their closed forms, and what they leave alone."""

import inspect
from math import sqrt

import pytest
import torch
from torch import nn

from conftest import presets
from depthlab.errors import Mistake
from depthlab.network import init

PRESETS = presets("init")
FILLS = sorted(PRESETS.keys() - {"fixup"})  # by the layer alone; see test_cures.py for the other
OPTIONS = {
    name
    for name, f in vars(init).items()
    if inspect.isfunction(f) and f.__module__ == init.__name__ and name[0] != "_"
}


class Gate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Conv2d(channels, channels, 1, bias=False)
        self.bias = nn.Parameter(torch.full((channels,), -6.0))


class Unit(nn.Module):
    """x + F(x): its branch ends in a norm, or in a layer."""

    def __init__(self, channels, normed, skip):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels) if normed else nn.Identity()
        self.skip = Gate(channels) if skip else None
        self.last = self.norm if normed else self.conv
        self.branch = nn.Sequential(self.conv, self.norm)

    def forward(self, x):
        return x + self.branch(x)


class Net(nn.Module):
    def __init__(self, activation="relu", skip=True):
        super().__init__()
        self.activation = activation
        self.conv = nn.Conv2d(48, 96, 3)
        self.linear = nn.Linear(300, 500)
        self.units = nn.ModuleList([Unit(8, True, skip), Unit(8, False, skip)])


def fill(net, preset, **changes):
    values = PRESETS[preset] | changes
    getattr(init, values.pop("name"))(net, **values)
    return net


def seeded(preset, seed=0, **changes):
    torch.manual_seed(seed)
    return fill(Net(), preset, **changes)


def layers(net):
    return [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def test_every_option_has_a_preset():
    assert {values["name"] for values in PRESETS.values()} == OPTIONS


FANS = {"conv": (48 * 9, 96 * 9), "linear": (300, 500)}
SPREADS = [  # the standard deviation, from fan_in and fan_out
    ("kaiming", {}, lambda i, o: sqrt(2 / i)),
    ("kaiming", {"distribution": "uniform"}, lambda i, o: sqrt(2 / i)),
    ("kaiming", {"gain": 0.5}, lambda i, o: 0.5 / sqrt(i)),
    ("kaiming_fan_out", {}, lambda i, o: sqrt(2 / o)),
    ("xavier", {}, lambda i, o: sqrt(2 / (i + o))),
    ("xavier", {"distribution": "uniform", "gain": 2.0}, lambda i, o: 2 * sqrt(2 / (i + o))),
    ("normal", {}, lambda i, o: 0.01),
    ("torch", {}, lambda i, o: sqrt(1 / 3 / i)),
]


@pytest.mark.parametrize(("preset", "changes", "std"), SPREADS)
@pytest.mark.parametrize("layer", FANS)
def test_spread(preset, changes, std, layer):
    weight = getattr(seeded(preset, **changes), layer).weight.detach()
    wanted, n, largest = std(*FANS[layer]), weight.numel(), weight.abs().max().item()
    assert weight.std().item() == pytest.approx(wanted, rel=5 / sqrt(2 * n))  # 5 standard errors of a normal's std
    assert abs(weight.mean().item()) < 5 * wanted / sqrt(n)
    if preset == "torch" or "distribution" in changes:
        assert largest == pytest.approx(sqrt(3) * wanted, rel=1e-3)  # uniform
    else:
        assert largest > 3 * wanted


@pytest.mark.parametrize(
    ("activation", "gain"), [("relu", sqrt(2)), ("tanh", 5 / 3), ("sigmoid", 1.0), ("identity", 1.0)]
)
@pytest.mark.parametrize("preset", ["kaiming", "orthogonal"])
def test_gain_is_the_activations(preset, activation, gain):
    torch.manual_seed(0)
    unset = fill(Net(activation), preset)
    torch.manual_seed(0)
    given = fill(Net(activation), preset, gain=gain)
    torch.testing.assert_close(unset.linear.weight, given.linear.weight)


@pytest.mark.parametrize("layer", FANS)
def test_orthogonal(layer):
    weight = getattr(seeded("orthogonal", gain=3.0), layer).weight.detach().flatten(1)
    short = weight if weight.shape[0] < weight.shape[1] else weight.T
    torch.testing.assert_close(short @ short.T, 9 * torch.eye(len(short)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("preset", FILLS)
def test_touches_only_layers(preset):
    net = Net()
    for parameter in net.parameters():
        nn.init.constant_(parameter, 7.0)
    fill(net, preset, zero_last=False)
    filled = {id(p) for layer in layers(net) for p in layer.parameters()}
    assert all((p == 7).all() for p in net.parameters() if id(p) not in filled)
    if preset != "torch":
        assert not any((layer.weight == 7).any() for layer in layers(net))
        assert not any(layer.bias.any() for layer in layers(net) if layer.bias is not None)


@pytest.mark.parametrize("preset", FILLS)
def test_zero_last_starts_each_unit_as_its_shortcut(preset):
    net, x = seeded(preset, zero_last=True), torch.randn(2, 8, 5, 5)
    for unit in net.units:
        assert unit(x).equal(x)
    assert net.units[0].conv.weight.any()  # only the last of each
    assert not seeded(preset, zero_last=False).units[0](x).equal(x)


@pytest.mark.parametrize("preset", FILLS)
def test_same_seed_same_weights(preset):
    a, b, c = (torch.cat([p.flatten() for p in seeded(preset, seed).parameters()]) for seed in (1, 1, 2))
    assert a.equal(b)
    assert not a.equal(c)


def test_torch_leaves_all_as_constructed():
    net = Net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fill(net, "torch")
    assert all(tensor.equal(before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("kaiming", {"gain": -1.0}, "init.gain=-1.0: at least 0"),
        ("xavier", {"gain": -1.0}, "init.gain=-1.0: at least 0"),
        ("orthogonal", {"gain": -1.0}, "init.gain=-1.0: at least 0"),
        ("normal", {"std": -0.1}, "init.std=-0.1: at least 0"),
    ],
)
def test_mistakes(preset, changes, message):
    with pytest.raises(Mistake) as mistake:
        fill(Net(), preset, **changes)
    assert str(mistake.value) == message


@pytest.mark.parametrize("preset", FILLS)
def test_zero_last_needs_a_shortcut(preset):
    with pytest.raises(Mistake, match=r"init\.zero_last=true.*skip=none"):
        fill(Net(skip=False), preset, zero_last=True)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("layer", FANS)
def test_delta_orthogonal(layer, rescale):
    """Xiao et al. 2018, algorithm 1: zero but in the centre, and there orthogonal; lengths stay."""
    weight = getattr(seeded("delta_orthogonal", gain=3.0, rescale=rescale), layer).weight.detach()
    centre = weight[:, :, 1, 1] if weight.dim() == 4 else weight
    assert weight.count_nonzero() == centre.count_nonzero() > 0
    out, channels = centre.shape
    scale = 9 * (out / channels if rescale else 1)
    torch.testing.assert_close(centre.T @ centre, scale * torch.eye(channels), rtol=0, atol=1e-4)


def test_delta_orthogonal_with_fewer_outputs_has_orthogonal_rows():
    net = nn.Sequential(nn.Conv2d(8, 3, 3))
    net.activation = "tanh"
    torch.manual_seed(0)
    init.delta_orthogonal(net, gain=1.0, rescale=True, zero_last=False)
    centre = net[0].weight.detach()[:, :, 1, 1]
    torch.testing.assert_close(centre @ centre.T, torch.eye(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", ["conv", "linear"])
def test_looks_linear_is_balduzzis_block(layer):
    """[[W, -W], [-W, W]] in pairs; the first layer's inputs and the last one's outputs have no mirror."""
    net = seeded("looks_linear")
    weight = getattr(net, layer).weight.detach()
    assert weight[0::2].equal(-weight[1::2])
    if layer == "linear":
        assert weight[:, 0::2].equal(-weight[:, 1::2])
        weight = weight[:, 0::2]
    w = weight[0::2].flatten(1)
    short = w if w.shape[0] < w.shape[1] else w.T
    torch.testing.assert_close(short @ short.T, torch.eye(len(short)), rtol=0, atol=1e-4)
    last = net.units[1].skip.weight.weight.detach()
    assert last[:, 0::2].equal(-last[:, 1::2])
    assert not last[0::2].equal(-last[1::2])


def test_looks_linear_needs_pairs():
    net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    net.activation = "relu"
    with pytest.raises(Mistake, match="init=looks_linear: pairs channels, and 5 is odd; choose an even width"):
        init.looks_linear(net, centre=False, zero_last=False)


def test_a_branch_that_ends_in_a_relu_cannot_begin_at_zero():
    net = Net()
    net.units[0].branch.append(nn.ReLU())
    with pytest.raises(Mistake, match=r"init\.zero_last=true: a branch that ends in a ReLU and begins at zero never"):
        fill(net, "kaiming", zero_last=True)
