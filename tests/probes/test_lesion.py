"""Deleted and swapped units against networks that are built so."""

import copy
from functools import partial

import pytest
import torch
from test_inside import dense, made, same, snapshot
from torch import nn

import depthlab
import depthlab.data
from depthlab.errors import Mistake
from depthlab.network import norm, skip, unit
from depthlab.network.unit import Unit
from depthlab.probes import lesion, paths
from depthlab.probes.lesion import alike, kendall_tau, permuted, replacing, without
from depthlab.run.probing import Probe

X, Y = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(3)), torch.arange(24) % 10
DATA = depthlab.data.synthetic(
    torch.device("cpu"), classes=4, channels=3, size=8, images=32, test_images=8, augment=False
)


def error(net, y):
    return 100 * (net.eval()(X).argmax(1) != y).double().mean().item()


def trained(kind=made, **keys):
    """A network whose running statistics fit the images, and labels which it gets right, so that a unit matters."""
    net = kind(**keys)
    for _ in range(20):
        net.train()(X)
    with torch.no_grad():
        net.head.bias -= net.eval()(X).mean(0)  # so that all classes occur
    return net, net.eval()(X).argmax(1)


@pytest.mark.parametrize("order", [unit.original, unit.preact, unit.relu_before_addition, unit.bn_after_addition])
def test_without_a_residual_unit_is_with_a_branch_of_zeros(order):
    net, y = trained(depth=14, order=order)
    found = lesion(net, X, y, 0.1, draws=1, seed=0)
    assert found["base_error"] == pytest.approx(error(net, y))
    for place, wounded in enumerate(found["error"]):
        cut = copy.deepcopy(net)
        cut.units[place].branch.append(Zero())
        assert wounded == pytest.approx(error(cut, y))
    assert len({*found["error"], found["base_error"]}) > 1
    assert found["deleted_error"][0] == found["swapped_error"][0] == found["base_error"]
    assert len(found["deleted_error"]) == 6
    assert len(found["swapped_error"]) == 4


class Zero(nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)


def test_without_a_plain_unit_is_the_network_without_it():
    net, y = trained(depth=14, join=skip.none)
    found = lesion(net, X, y, 0.1, draws=1, seed=0)
    for place in (0, 1, 3, 5):  # those that keep the shape
        cut, stage, inside = copy.deepcopy(net), place // 2, place % 2
        cut.stages[stage][inside] = nn.Identity()
        assert found["error"][place] == pytest.approx(error(cut, y))
    x = torch.randn(2, 4, 8, 8).relu()
    halved = without(net.units[2], x)
    assert torch.equal(halved[:, :4], x[:, :, ::2, ::2])
    assert not halved[:, 4:].any()


def test_scaled_skips_keep_their_scale():
    net = made(join=lambda channels: skip.scaled(channels, scale=0.5, branch=1.0), order=unit.preact)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(without(net.units[0], x), 0.5 * x)


def test_all_units_but_one_and_counts():
    net, y = trained(depth=8)
    found = lesion(net, X, y, 0.1, draws=3, seed=1)
    errors = []
    for keep in range(3):
        with replacing({u: lambda x, u=u: without(u, x) for i, u in enumerate(net.units) if i != keep}):
            errors.append(error(net, y))
    assert min(errors) - 1e-6 <= found["deleted_error"][2] <= max(errors) + 1e-6
    assert found["median_cost"] == found["median_error"] - found["base_error"]
    assert found["worst_error"] == max(found["error"])
    assert found["harmless_share"] == sum(e - found["base_error"] < 1 for e in found["error"]) / 3


def test_swapped_units_stand_in_each_others_place():
    net, _ = trained(depth=20)
    first, second = net.units[1], net.units[2]
    with replacing({first: lambda x: Unit.forward(second, x), second: lambda x: Unit.forward(first, x)}):
        found = net(X)
    other = copy.deepcopy(net)
    stage = other.stages[0]
    stage[1], stage[2] = stage[2], stage[1]
    assert torch.equal(found, other(X))
    assert not torch.equal(found, net(X))


@pytest.mark.parametrize(
    ("net", "n", "stages"),
    [
        (made(depth=8), 3, 3),
        (made(depth=14), 6, 3),
        (made(depth=26), 12, 3),
        (made(depth=14, join=skip.none), 6, 0),
        (dense(), 9, 3),
    ],
)
def test_costs_the_passes_that_it_states(net, n, stages):
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    found = lesion(net, X, Y, 0.1, draws=2, seed=0)
    assert len(passes) == 1 + n + 2 * (n - 1) + 2 * (n // 2) + stages
    assert len(found.get("cut_error", [])) == stages


class Nothing(nn.Module):
    def forward(self, x, f):
        return torch.cat([torch.zeros_like(x), f], 1) if x.shape != f.shape else f


@pytest.mark.parametrize("order", [unit.preact, unit.original])
@pytest.mark.parametrize("kind", [made, dense])
def test_a_cut_stage_sees_nothing_of_what_came_before_its_units(kind, order):
    net, y = trained(kind, order=order)
    found = lesion(net, X, y, 0.1, draws=1, seed=0)
    for stage, wounded in enumerate(found["cut_error"]):
        other = copy.deepcopy(net)
        for module in other.stages[stage]:
            if module.skip is not None:
                module.skip = Nothing()
        assert wounded == pytest.approx(error(other, y))
    assert len({*found["cut_error"], found["base_error"]}) > 1
    assert found["least_cut_cost"] == min(found["cut_error"]) - found["base_error"]


@pytest.mark.parametrize("order", [unit.preact, unit.original])
def test_a_dense_unit_deleted_gives_zeros_to_all_that_read_it(order):
    net, y = trained(dense, order=order)
    found = lesion(net, X, y, 0.1, draws=1, seed=0)
    joined = [place for place, module in enumerate(net.units) if module.skip is not None]
    assert len(joined) == len(found["error"]) == 9
    for place, wounded in zip(joined, found["error"], strict=True):
        other = copy.deepcopy(net)
        other.units[place].branch.append(Zero())
        assert wounded == pytest.approx(error(other, y))
    assert len({*found["error"], found["base_error"]}) > 1


def test_a_plain_unit_that_halves_is_left_out_with_its_size():
    net, y = trained(dense, join=skip.none)
    assert without(net.units[3], torch.randn(2, 3, 8, 8)).shape == (2, 3, 4, 4)
    assert len(lesion(net, X, y, 0.1, draws=1, seed=0)["error"]) == len(net.units) == 11


def test_fully_connected_and_the_same_draws_twice():
    net, y = trained(depth=14, norms=norm.layer)
    assert lesion(net, X, y, 0.1, draws=2, seed=4) == lesion(net, X, y, 0.1, draws=2, seed=4)
    with pytest.raises(Mistake, match=r"probe\.lesion\.draws=0: at least 1"):
        lesion(net, X, Y, 0.1, draws=0, seed=0)


def test_an_order_is_the_network_with_its_units_in_that_order():
    net, _ = trained(depth=20)
    other = copy.deepcopy(net)
    stage = other.stages[0]
    stage[0], stage[1], stage[2] = stage[1], stage[2], stage[0]
    with replacing(permuted(net.units, [1, 2, 0, *range(3, 9)])):
        found = net(X)
    assert torch.equal(found, other(X))
    assert alike(net.units) == [(0, 1), (0, 2), (1, 2), (4, 5), (7, 8)]
    assert kendall_tau([1, 2, 0]) == pytest.approx(-1 / 3)


def test_units_that_differ_in_their_places_number_alone_are_swapped():
    for words in ("skip=stochastic_depth", "skip=nf norm=none weight=standardised unit=preact network.shortcut=B"):
        net = depthlab.network(f"data=digits depth=20 width=4 {words}")
        assert {*alike(net.units)} >= {(4, 5), (7, 8)}


@pytest.mark.parametrize("join", [skip.identity, skip.none, lambda c: skip.dropout(c, p=0.5, rescale=False)])
@pytest.mark.parametrize("measure", [lesion, paths])
def test_the_network_is_left_as_it_was(measure, join):
    net = made(depth=14, join=join)
    net(X).sum().backward()
    net.units[1].eval()
    before, probe = snapshot(net), Probe("made", partial(measure, draws=2, seed=0), None, "train", 16)
    first = probe(net, DATA, 0.1)
    assert same(before, snapshot(net))
    assert not any("forward" in vars(u) for u in net.units)
    torch.rand(3)
    assert probe(net, DATA, 0.1) == first
