"""Orders against He et al. 2016, Fig. 4, written out by hand, and played by a second implementation."""

import inspect
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conftest import presets
from depthlab.config import bind
from depthlab.network import norm, resnet, skip, unit

PRESETS = presets("unit")
OPTIONS = {
    name
    for name, f in vars(unit).items()
    if inspect.isfunction(f) and f.__module__ == unit.__name__ and name[0] != "_"
}
KINDS = {nn.Conv2d: "conv", nn.BatchNorm2d: "norm", nn.ReLU: "act", skip.identity: "add", nn.Linear: "head"}

# A unit of two layers inside the network.
FIG_4 = {
    "original": "conv norm act conv norm add act",
    "bn_after_addition": "conv norm act conv add norm act",
    "relu_before_addition": "conv norm act conv norm act add",
    "relu_only_preact": "act conv norm act conv norm add",
    "preact": "norm act conv norm act conv add",
    "norm_after_activation": "conv act norm conv add act norm",
}
ONE_LAYER = {
    "original": "conv norm add act",
    "bn_after_addition": "conv add norm act",
    "relu_before_addition": "conv norm act add",
    "relu_only_preact": "act conv norm add",
    "preact": "norm act conv add",
    "norm_after_activation": "conv add act norm",
}
BOTTLENECK = {
    "original": "conv norm act conv norm act conv norm add act",
    "bn_after_addition": "conv norm act conv norm act conv add norm act",
    "relu_before_addition": "conv norm act conv norm act conv norm act add",
    "relu_only_preact": "act conv norm act conv norm act conv norm add",
    "preact": "norm act conv norm act conv norm act conv add",
    "norm_after_activation": "conv act norm conv act norm conv add act norm",
}
# The stem, what the first unit lacks in front, what follows the last addition, a projection (section 4.1, appendix).
ENDS = {
    "original": ("conv norm act", "", "", "conv norm"),
    "bn_after_addition": ("conv norm act", "", "", "conv norm"),
    "relu_before_addition": ("conv norm act", "", "", "conv norm"),
    "relu_only_preact": ("conv norm act", "act ", "act", "conv norm"),
    "preact": ("conv norm act", "norm act ", "norm act", "conv"),
    "norm_after_activation": ("conv act norm", "", "", "conv norm"),
}
LAST = {
    "original": "norm2",
    "bn_after_addition": "conv2",
    "relu_before_addition": "norm2",
    "relu_only_preact": "norm2",
    "preact": "conv2",
    "norm_after_activation": "conv2",
}
BLOCKS = {"basic": (8, FIG_4), "single": (5, ONE_LAYER), "bottleneck": (11, BOTTLENECK)}


def order(preset):
    return bind(unit, PRESETS[preset], "unit")()


def network(preset, block="basic", join=skip.identity, shortcut="A", units=3):
    """A network of `units` units in three stages of 4, 8, 16 channels, in evaluation, each norm its own."""
    torch.manual_seed(0)
    depth = (BLOCKS[block][0] - 2) * units // 3 + 2
    choices = {"family": "cifar", "shortcut": shortcut, "stride_in": "1x1"}
    net = (
        resnet((3, 8, 8), 10, depth, 4, block, order(preset), join, nn.BatchNorm2d, nn.ReLU, **choices)
        .double()
        .eval()
    )
    for tensor in (t for m in net.modules() if isinstance(m, nn.BatchNorm2d) for t in m.state_dict().values()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return net.eval()


def one_unit(preset, *, first=False, join=None, layers=2):
    """A unit of 4 channels with an identity shortcut."""
    torch.manual_seed(0)
    convs = [nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(layers)]
    join = skip.identity(4) if join is None else join
    return order(preset).unit(convs, nn.Identity(), join, nn.BatchNorm2d, nn.ReLU, first=first)


def images(channels=3):
    return torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def kind(module):
    return next((name for cls, name in KINDS.items() if isinstance(module, cls)), None)


def trace(module, x, skipping=()):
    """The kinds of the layers in the order in which they run."""
    seen, hooks = [], []
    for m in module.modules():
        if kind(m) and m not in skipping:
            hooks.append(m.register_forward_hook(lambda m, *_: seen.append(kind(m))))
    module(x)
    for hook in hooks:
        hook.remove()
    return " ".join(seen)


def shortcuts(net):
    return {m for u in net.units if u.shortcut is not None for m in u.shortcut.modules()}


# every option


def test_every_option_has_a_preset():
    assert {values["name"] for values in PRESETS.values()} == OPTIONS


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_layers(preset, block):
    """Whatever the order, as many convolutions as the block has, one addition, and no layer runs twice."""
    layers = {"basic": 2, "single": 1, "bottleneck": 3}[block]
    net = network(preset, block)
    words = trace(net, images()).split()
    assert (words.count("conv"), words.count("add")) == (3 * layers + 1, 3)
    assert len(words) == sum(kind(m) is not None for m in net.modules())


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_plain_twin_is_the_same_network_without_shortcuts(preset, block):
    net = network(preset, block, partial(skip.exclusive_gate, bias=-6.0), "C")
    plain = network(preset, block, skip.none, "C")
    gone = {k for k in net.state_dict() if ".shortcut." in k or ".skip." in k}
    assert gone
    assert [(k, v.shape) for k, v in plain.state_dict().items()] == [
        (k, v.shape) for k, v in net.state_dict().items() if k not in gone
    ]
    twin = network(preset, block)
    assert trace(plain, images()) == trace(twin, images()).replace("add ", "")
    twin.load_state_dict(plain.state_dict())
    assert not twin(images()).allclose(plain(images()))


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_unit_whose_last_layer_is_zero_is_its_shortcut(preset, layers):
    u = one_unit(preset, layers=layers).eval()
    for parameter in u.last.parameters():
        nn.init.zeros_(parameter)
    x = images(4).float()
    assert u(x).equal(u.after(x))


# against Fig. 4


@pytest.mark.parametrize(("layers", "table"), [(1, ONE_LAYER), (2, FIG_4), (3, BOTTLENECK)])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("preset", FIG_4)
def test_order(preset, first, layers, table):
    words = trace(one_unit(preset, first=first, layers=layers), images(4).float())
    assert words == table[preset].removeprefix(ENDS[preset][1] if first else "")


@pytest.mark.parametrize("units", [3, 6])
@pytest.mark.parametrize(("block", "table"), [(block, table) for block, (_, table) in BLOCKS.items()])
@pytest.mark.parametrize("preset", FIG_4)
def test_order_of_the_network(preset, block, table, units):
    stem, lacks, tail, _ = ENDS[preset]
    net = network(preset, block, shortcut="B", units=units)
    inner = [table[preset].removeprefix(lacks), *[table[preset]] * (units - 1)]
    assert trace(net, images(), shortcuts(net)) == " ".join(filter(None, [stem, *inner, tail, "head"]))


@pytest.mark.parametrize("preset", FIG_4)
def test_last(preset):
    u = one_unit(preset)
    assert u.last is u.branch.get_submodule(LAST[preset])
    u = order(preset).unit([nn.Linear(4, 4)], nn.Identity(), None, norm.none, nn.ReLU, first=True)
    assert u.last is u.branch.get_submodule("conv1")  # no norm: the layer


# the shortcut


def inputs(module):
    """Where the inputs of a module's calls will be found."""
    seen = []
    module.register_forward_hook(lambda module, x, y: seen.append(x[0]))
    return seen


@pytest.mark.parametrize("preset", FIG_4)
def test_projections_see_the_preactivated_input(preset):
    net = network(preset, shortcut="C")
    for u in net.units:
        into, projected, joined = inputs(u), inputs(u.shortcut), inputs(u.skip)
        stands_before = [kind(m) for m in u.before]
        net(images())
        wanted = into[0]
        for m in u.before:
            wanted = m(wanted)
        assert projected[0].equal(wanted)
        assert joined[0].equal(u.shortcut(wanted))
        assert " ".join(map(kind, u.shortcut)) == ENDS[preset][3]
        assert stands_before == ([] if u is net.units[0] else ENDS[preset][1].split())
        assert projected[0].equal(into[0]) == (not stands_before)


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("preset", FIG_4)
def test_identities_and_zero_padding_see_the_input_itself(preset, shortcut):
    net = network(preset, shortcut=shortcut, units=6)
    units = [u for u in net.units if not isinstance(u.shortcut, nn.Sequential)]
    assert len(units) == {"A": 6, "B": 4}[shortcut]
    into, seen = [inputs(u) for u in units], [inputs(u.shortcut) for u in units]
    net(images())
    assert all(a[0] is b[0] for a, b in zip(into, seen, strict=True))


@pytest.mark.parametrize("preset", ["preact", "relu_only_preact", "relu_before_addition"])
def test_nothing_after_the_addition_leaves_the_identity(preset):
    """x[L] = x[l] + the sum of F(x[i]) over the units between (He et al. 2016, eq. 4)."""
    units = [one_unit(preset).double() for _ in range(4)]
    x, total = images(4), 0
    for u in units:
        branch = inputs(u.skip)
        x = u(x)
        assert len(branch) == 1
        total = total + u.branch(u.before(branch[0]))
    torch.testing.assert_close(x, images(4) + total)
    for u in units:
        for parameter in u.branch.parameters():
            nn.init.zeros_(parameter)
    assert nn.Sequential(*units)(images(4)).equal(images(4))


# numbers: a second implementation, and the same plain function in every order


def reference(net, x, preset, table, shortcut):
    """The network again, from the words above and the bare weights."""
    stem, _, tail, projection = ENDS[preset]
    main = [[net.stem], *([u.before, u.branch, u.after] for u in net.units), [net.tail]]
    layers = {"conv": [], "norm": []}
    for m in (m for parts in main for part in parts for m in part.modules()):
        layers.get(kind(m), []).append(m)
    layers = {name: iter(found) for name, found in layers.items()}

    def play(words, x, layers, short=None, stride=1):
        for word in words.split():
            if word == "conv":
                w = next(layers["conv"]).weight
                x, stride = F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2), 1
            elif word == "norm":
                m = next(layers["norm"])
                mean, var, scale, shift = (
                    t.view(-1, 1, 1) for t in (m.running_mean, m.running_var, m.weight, m.bias)
                )
                x = (x - mean) / (var + 1e-5).sqrt() * scale + shift
            elif word == "act":
                x = x.clamp(min=0)
            else:
                x = x + short
        return x

    x = play(stem, x, layers)
    for i, u in enumerate(net.units):
        before, rest = table[preset].split("conv", 1)
        stride = 2 if i in (1, 2) else 1
        a = x if i == 0 else play(before, x, layers)
        if shortcut == "A":
            short = x[:, :, ::stride, ::stride]
            out = u.branch.conv1.out_channels if table is not BOTTLENECK else 4 * u.branch.conv1.out_channels
            short = torch.cat([short, short.new_zeros(len(x), out - x.shape[1], *short.shape[2:])], 1)
        else:
            own = {"conv": iter([u.shortcut.conv1]), "norm": iter([getattr(u.shortcut, "norm1", None)])}
            short = play(projection, a, own, stride=stride)
        x = play("conv" + rest, a, layers, short, stride)
    return F.linear(play(tail, x, layers).mean((2, 3)), net.head.weight, net.head.bias)


@pytest.mark.parametrize("shortcut", ["A", "C"])
@pytest.mark.parametrize(("block", "table"), [(block, table) for block, (_, table) in BLOCKS.items()])
@pytest.mark.parametrize("preset", FIG_4)
def test_a_second_implementation(preset, block, table, shortcut):
    net = network(preset, block, shortcut=shortcut)
    torch.testing.assert_close(net(images()), reference(net, images(), preset, table, shortcut))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(("a", "b"), [*pairwise(sorted(FIG_4.keys() - {"norm_after_activation"}))])
def test_plain_networks_are_one_chain_of_conv_norm_relu(a, b, block):
    """Where there is no addition to stand before or after, Fig. 4(a) to (e) are one function (section 4.1)."""
    a, b = (network(preset, block, skip.none, units=6) for preset in (a, b))
    b.load_state_dict(dict(zip(b.state_dict(), a.state_dict().values(), strict=True)))
    assert trace(a, images()) == trace(b, images())
    torch.testing.assert_close(a(images()), b(images()))
    torch.testing.assert_close(a.train()(images()), b.train()(images()))


# channels of the norms


@pytest.mark.parametrize("preset", PRESETS)
def test_a_norm_is_made_for_the_channels_that_reach_it(preset):
    made = []

    def recorded(channels):
        made.append(channels)
        return nn.BatchNorm2d(channels)

    convs = [nn.Conv2d(4, 6, 1), nn.Conv2d(6, 9, 1), nn.Conv2d(9, 4, 1)]
    order(preset).unit(convs, nn.Identity(), skip.identity(4), recorded, nn.ReLU, first=False)(images(4).float())
    assert set(made) <= {4, 6, 9}
    assert {6, 9} <= set(made)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_convolution_on_the_shortcut_has_the_norm_of_a_projection(preset):
    """He et al. 2016, Fig. 2, the caption: norms follow the weight layers of all those units."""
    x, f = torch.randn(2, 2, 4, 5, 5).double()
    join = network(preset, join=skip.conv).units[0].skip
    conv, *norms = join.projection
    assert " ".join(["conv", *map(kind, norms)]) == ENDS[preset][3]
    y = F.conv2d(x, conv.weight)
    for m in norms:
        y = F.batch_norm(y, m.running_mean, m.running_var, m.weight, m.bias, eps=m.eps)
    torch.testing.assert_close(join(x, f), y + f)
