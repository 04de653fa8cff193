"""Cures that need several groups at once, against the papers' counts, formulas and a second implementation."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conftest import ADDING, option, presets
from depthlab.errors import Mistake
from depthlab.network import activation, init, mlp, norm, resnet, skip, unit, weight
from depthlab.probes.inside import recorded

CIFAR = {"family": "cifar", "shortcut": "A", "stride_in": "1x1"}


def net(
    depth=20, width=16, *, order="original", join="identity", norms="none", act="relu", made="plain", fill, **more
):
    torch.manual_seed(0)
    parts = option(unit, order)(), option(skip, join), option(norm, norms), option(activation, act)
    network = resnet((3, 32, 32), 10, depth, width, None, *parts, option(weight, made), **(CIFAR | more))
    network.activation = act
    option(init, fill)(network)
    return network


def count(net):
    return sum(p.numel() for p in net.parameters())


# Fixup


@pytest.mark.parametrize("depth", [20, 56, 110])
def test_fixup_has_its_papers_parameters(depth):
    """Convolutions and the head as in the batch norm network; four biases and a multiplier a unit, one bias after the
    first convolution, one before the head.
    """
    units = (depth - 2) // 2
    fixed, batch = net(depth, norms="fixup", fill="fixup"), net(depth, norms="batch", fill="kaiming")
    norms = sum(count(m) for m in batch.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    assert count(fixed) == count(batch) - norms + 5 * units + 2


@pytest.mark.parametrize("depth", [20, 56])
def test_fixups_weights_follow_its_rules(depth):
    fixed, units = net(depth, norms="fixup", fill="fixup"), (depth - 2) // 2
    assert not fixed.head.weight.any()
    for u in fixed.units:
        first, last = u.branch.conv1.weight, u.branch.conv2.weight
        assert not last.any()
        he = (2 / first[0].numel()) ** 0.5
        assert first.std().item() == pytest.approx(he * units**-0.5, rel=0.1)  # m = 2: L^(-1/2)
        assert [name for name, _ in u.branch.named_children()] == [
            *("shift1", "conv1", "norm1", "act1", "shift2", "conv2", "norm2")
        ]
    assert fixed.stem.conv1.weight.std().item() == pytest.approx((2 / 27) ** 0.5, rel=0.1)
    assert not fixed(torch.randn(2, 3, 32, 32)).any()


def test_fixup_of_bottlenecks_has_the_exponent_of_three_layers():
    torch.manual_seed(0)
    parts = unit.original(), skip.identity, norm.fixup, activation.relu
    fixed = resnet((3, 8, 8), 10, 29, 16, "bottleneck", *parts, **(CIFAR | {"shortcut": "B"}))
    fixed.activation = "relu"
    init.fixup(fixed)
    middle = fixed.units[4].branch.conv2.weight
    assert middle.std().item() == pytest.approx((2 / middle[0].numel()) ** 0.5 * 9**-0.25, rel=0.1)


def by_hand(net, x):
    """The published basic block once more: relu(x + ...) with the scalars where the paper's Figure 1 has them."""
    state = net.state_dict()
    x = F.relu(F.conv2d(x, state["stem.conv1.weight"], padding=1) + state["stem.norm1.bias"])
    for stage in range(3):
        for i in range(3):
            p = {k.removeprefix(f"stages.{stage}.{i}.branch."): v for k, v in state.items()}
            stride = 2 if stage and not i else 1
            f = F.conv2d(x + p["shift1.bias"], p["conv1.weight"], stride=stride, padding=1)
            f = F.relu(f + p["norm1.bias"])
            f = F.conv2d(f + p["shift2.bias"], p["conv2.weight"], padding=1)
            f = f * p["norm2.weight"] + p["norm2.bias"]
            h = x if stride == 1 else F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, x.shape[1]))
            x = F.relu(h + f)
    x = x.mean((2, 3)) + state["tail.shift.bias"]
    return F.linear(x, state["head.weight"], state["head.bias"])


def test_fixup_is_the_papers_network():
    fixed = net(20, 4, norms="fixup", fill="fixup").double()
    for parameter in fixed.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(fixed(x), by_hand(fixed, x))


def test_fixup_needs_a_shortcut():
    with pytest.raises(Mistake, match="init=fixup: no unit has a shortcut"):
        net(20, join="none", norms="fixup", fill="fixup")


# looks linear


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize(
    ("act", "build"),
    [("relu", "plain"), ("relu", "mlp"), *(("mirrored_relu", build) for build in ("plain", "residual", "mlp"))],
)
def test_a_network_that_looks_linear_is(act, build, centre):
    """Balduzzi et al. 2017, section 5; in a residual network that adds before the activation, the mirrored one."""
    torch.manual_seed(0)
    join = skip.identity if build == "residual" else skip.none
    parts = unit.original(), join, norm.none, option(activation, act)
    if build == "mlp":
        network = mlp((3, 8, 8), 10, 20, 16, None, *parts)
    else:
        network = resnet((3, 8, 8), 10, 20, 8, None, *parts, **CIFAR)
    network.activation = act
    init.looks_linear(network, centre=centre, zero_last=False)
    network.double()
    a, b = torch.randn(2, 2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(network(2 * a - 3 * b), 2 * network(a) - 3 * network(b))
    assert network(a).abs().max() > 1e-3
    if build == "mlp":
        assert network(a).norm(dim=1).max() <= a.flatten(1).norm(dim=1).max() * 1.0001  # orthogonal: no longer


@pytest.mark.parametrize("act", ["relu", "mirrored_relu"])
def test_in_a_kernels_centre_it_keeps_the_signal_and_in_whole_kernels_it_does_not(act):
    """Of the units of the first size: no stride leaves out pixels, all have as many channels."""
    kept = []
    for centre in (False, True):
        torch.manual_seed(0)
        parts = unit.original(), skip.none, norm.none, option(activation, act)
        network = resnet((3, 8, 8), 10, 56, 8, None, *parts, **CIFAR)
        network.activation = act
        init.looks_linear(network, centre=centre, zero_last=False)
        with recorded(network.units[:9]) as outputs, torch.no_grad():
            network(torch.randn(16, 3, 8, 8))
        kept.append((outputs[8].square().sum() / outputs[0].square().sum()).item())
    assert kept[0] < 0.3
    assert kept[1] == pytest.approx(1, abs=1e-4)


# DiracNet and delta-orthogonal


@pytest.mark.parametrize("depth", [20, 56])
def test_dirac_adds_two_numbers_an_output(depth):
    units = (depth - 2) // 6
    plain = net(depth, join="none", norms="batch", fill="kaiming")
    made = net(depth, join="none", norms="batch", made="dirac", fill="kaiming")
    assert count(made) - count(plain) == 2 * 2 * units * (16 + 32 + 64)


@pytest.mark.parametrize("depth", [20, 56])
def test_standardised_adds_a_number_an_output(depth):
    units = (depth - 2) // 6
    plain = net(depth, norms="none", fill="kaiming")
    made = net(depth, norms="none", made="standardised", fill="kaiming")
    assert count(made) - count(plain) == 16 + 2 * units * (16 + 32 + 64)


@pytest.mark.parametrize("act", ["tailored", "tanh"])
def test_a_delta_orthogonal_stage_keeps_every_length_without_its_activations(act):
    network = net(20, join="none", act=act, fill="delta_orthogonal")
    gain = init.GAINS[act]
    x = torch.randn(2, 16, 8, 8)
    y = network.units[1].branch.conv1(x)
    torch.testing.assert_close(y.norm(dim=1), gain * x.norm(dim=1))


# every option, in networks of 20 and 56 layers

VARIED = {
    "join": ADDING,
    "norms": ["fixup"],
    "act": sorted(presets("activation")),
    "made": sorted(presets("weight")),
    "fill": sorted(presets("init")),
}


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, names in VARIED.items() for name in names])
@pytest.mark.parametrize("depth", [20, 56])
def test_each_option_gives_every_parameter_a_gradient(depth, key, name):
    network = net(depth, 4, **({"norms": "batch", "fill": "kaiming"} | {key: name}))
    x = torch.randn(4, 3, 8, 8)
    F.cross_entropy(network(x), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
