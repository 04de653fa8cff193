"""A probe leaves the network as it was; its layers are the paper's."""

from contextlib import suppress

import pytest
import torch
from torch import nn

import depthlab
from depthlab.network import activation, densenet, norm, skip, unit
from depthlab.network.graph import compiled
from depthlab.network.resnet import resnet
from depthlab.probes.inside import growth, layers, progress, recorded, untouched


def made(
    depth=14, block="basic", order=unit.original, join=skip.identity, norms=norm.batch, width=4, act=activation.relu
):
    torch.manual_seed(0)
    parts = (order(), join, norms, act)
    if norms is norm.batch:
        parts = (order(), join, lambda channels: norm.batch(channels), act)
    return resnet((3, 8, 8), 10, depth, width, block, *parts, family="cifar", shortcut=None, stride_in="1x1")


def test_a_bar_is_drawn_in_a_terminal_but_not_in_a_sweeps_worker(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for parent, drawn in ((None, True), (object(), False)):
        monkeypatch.setattr("multiprocessing.parent_process", lambda parent=parent: parent)
        assert [*progress([1, 2], "lesion", "networks")] == [1, 2]
        assert ("lesion: " in capsys.readouterr().err) is drawn


def dense(depth=13, join=skip.concat, order=unit.preact, bottleneck=False):
    torch.manual_seed(0)
    keys = {"family": "cifar", "growth": 3, "bottleneck": bottleneck, "compression": 1.0}
    return densenet((3, 8, 8), 10, depth, 4, None, order(), join, norm.batch, activation.relu, **keys)


def snapshot(net):
    modes = {name: module.training for name, module in net.named_modules()}
    grads = {n: None if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}
    return {n: t.clone() for n, t in net.state_dict().items()}, modes, grads, torch.get_rng_state()


def same(a, b):
    states = all(torch.equal(a[0][n], b[0][n]) for n in a[0])
    grads = all((a[2][n] is None) == (b[2][n] is None) for n in a[2])
    grads = grads and all(a[2][n] is None or torch.equal(a[2][n], b[2][n]) for n in a[2])
    return states and a[1] == b[1] and grads and torch.equal(a[3], b[3])


def vandal(net):
    """All that a probe could do to a network."""
    net.train()
    loss = net(torch.randn(4, 3, 8, 8)).square().sum()
    loss.backward()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    net.units[0].eval()


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_untouched_puts_everything_back(error):
    net = made()
    net(torch.randn(4, 3, 8, 8)).sum().backward()
    net.head.weight.grad = None
    net.eval()
    net.units[1].train()
    before, kept = snapshot(net), net.stem.conv1.weight.grad
    with suppress(RuntimeError, KeyboardInterrupt), untouched(net):
        vandal(net)
        assert not same(before, snapshot(net))
        if error:
            raise error
    assert same(before, snapshot(net))
    assert net.stem.conv1.weight.grad is kept


@pytest.mark.parametrize(("depth", "block"), [(14, "basic"), (20, "basic"), (20, "bottleneck"), (11, "single")])
@pytest.mark.parametrize("order", [unit.original, unit.preact, unit.bn_after_addition, unit.relu_only_preact])
def test_there_are_as_many_layers_as_the_depth_says_but_the_head(depth, block, order):
    net = made(depth, block, order)
    found = layers(net)
    assert len(found) == depth - 1
    assert len(layers(dense())) == 12
    assert [layer for _, layer, _ in found] == [
        m for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and "shortcut" not in n
    ]
    assert len({name for name, *_ in found}) == len(found)


def test_the_response_is_the_norms_where_one_follows():
    assert all(isinstance(answer, nn.BatchNorm2d | nn.modules.batchnorm._BatchNorm) for *_, answer in layers(made()))
    without = layers(made(norms=norm.none))
    assert all(layer is answer or isinstance(answer, nn.Identity) for _, layer, answer in without)
    inside = layers(made(order=unit.preact))
    assert inside[1][2] is not inside[1][1]  # conv1, then norm2 of the same branch
    assert inside[2][2] is inside[2][1]  # the branch ends in conv2
    after = layers(made(order=unit.bn_after_addition))
    assert after[2][2] is after[2][1]


def test_recorded_gives_what_passes_in_the_order_asked_for():
    first, second = nn.Linear(2, 3), nn.Linear(3, 1)
    x = torch.randn(5, 2)
    with recorded([second, first]) as outputs, recorded([second], inputs=True) as inputs:
        y = second(first(x))
    assert torch.equal(outputs[0], y)
    assert torch.equal(outputs[1], first(x))
    assert torch.equal(inputs[0], outputs[1])
    assert not first._forward_hooks
    assert not second._forward_hooks


def test_growth():
    assert growth([1.0, 7.0, 16.0], 2) == 4
    assert growth([8.0, 1.0], 3) == pytest.approx(0.5)
    for values, steps in (([0.0, 1.0], 1), ([1.0, 0.0], 1), ([1.0, 1.0], 0), ([float("nan"), 1.0], 1)):
        assert growth(values, steps) != growth(values, steps)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch looks at it
def test_hooks_are_seen_where_the_units_are_compiled():
    """Compiled code, made before a probe hangs its hooks, would not call them."""
    net, x = made(depth=8).eval(), torch.randn(4, 3, 8, 8)
    compiled(net, "eager")
    for _ in range(3):
        net(x)
        with untouched(net), recorded([net.units[0].branch]) as found:
            net(x)
            (seen,) = found
        assert seen.shape == (4, 4, 8, 8)
    assert all(unit._compiled_call_impl is not None for unit in net.units)


@pytest.mark.parametrize(
    ("name", "words", "seen"),
    [
        ("gradients", "norm=none", ["layer_factor", "weights_factor"]),
        ("lambda_product", "norm=none skip=scaled", ["first_gradient", "first_shortcut", "shortcut_factor"]),
        ("paths", "norm=none skip=identity", ["gradient_share"]),
        ("gradient_correlation", "norm=none skip=none", ["correlation", "decay_factor"]),
        ("shattered_gradients", "norm=none skip=none", ["autocorrelation"]),
        ("norm_effects", "norm=batch skip=none", ["gradient_factors"]),
    ],
)
def test_a_gradient_whose_square_float32_cannot_hold_is_measured(name, words, seen):
    """A head this small makes all gradients smaller by a power of two, exactly."""
    x, y = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8)
    found = []
    for size in (2.0**-30, 2.0**-95):
        net = depthlab.network(f"depth=14 width=4 data=digits {words}")
        with torch.no_grad():
            net.head.weight.mul_(size)
        found.append({key: value for key, value in depthlab.probe(net, x, y, name).items() if key in seen})
    assert found[0].keys() == {*seen}
    assert found[0] == found[1]


@pytest.mark.parametrize("size", [2.0**-80, 2.0**80])
def test_a_signal_whose_square_float32_cannot_hold_is_measured(size):
    net = depthlab.network("depth=14 width=4 data=digits norm=none skip=identity")
    x, y = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8)
    usual, other = (depthlab.probe(net, images, y, "activations") for images in (x, x * size))
    assert other["variance_factor"] == usual["variance_factor"]
    assert other["unit_variance"] == [variance * size**2 for variance in usual["unit_variance"]]
    assert other["deviation"] == [deviation * size for deviation in usual["deviation"]]
