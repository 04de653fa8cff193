"""Covariate shift by brute force: a copy of the network for each layer."""

import copy

import pytest
import torch
from test_inside import made
from test_loss_along_gradient import X, Y, at

from depthlab.errors import Mistake
from depthlab.network import norm, skip, unit
from depthlab.probes import covariate_shift as probe
from depthlab.probes.inside import layers, recorded


def conv_b(channels):
    return skip.conv(channels)


@pytest.mark.parametrize(
    ("norms", "order", "join"),
    [
        (norm.batch, unit.original, skip.none),
        (norm.none, unit.original, skip.identity),
        (norm.batch, unit.preact, conv_b),
    ],
)
def test_against_copies_whose_first_layers_step(norms, order, join):
    net, x = made(depth=8, norms=norms, order=order, join=join).double(), X.double()
    found = probe(net, x, Y, 0.3, step=None)
    names = [name for name, _ in net.named_parameters()]
    own = [n for n in names if "branch.conv" in n and n.endswith("weight")]
    assert len(own) == 6
    at(net, x, Y)
    gradients = {name: weight.grad.clone() for name, weight in net.named_parameters()}
    for place, name in enumerate(own):
        other = copy.deepcopy(net)
        with torch.no_grad():
            for earlier in names[: names.index(name)]:
                other.get_parameter(earlier).sub_(0.3 * gradients[earlier])
        at(other, x, Y)
        g, h = gradients[name], other.get_parameter(name).grad
        assert found["distances"][place] == pytest.approx((g - h).norm().item(), rel=1e-8)
        assert found["cosines"][place] == pytest.approx((g * h).sum().item() / (g.norm() * h.norm()).item(), rel=1e-8)
    assert found["distance"] == pytest.approx(sum(found["distances"]) / 6)
    assert found["cosine"] == pytest.approx(sum(found["cosines"]) / 6)
    ratios = [d / gradients[n].norm().item() for d, n in zip(found["distances"], own, strict=True)]
    assert found["relative_distance"] == pytest.approx(sum(ratios) / 6)


def test_layer_inputs_before_and_after_the_step():
    net, x = made(depth=8).double(), X.double()
    found, modules = probe(net, x, Y, 0.1, step=0.5), [layer for _, layer, _ in layers(net)][1:]
    with recorded(modules, inputs=True) as inputs:
        at(net, x, Y)
        before = [signal.detach() for signal in inputs]
        torch.optim.SGD(net.parameters(), 0.5).step()
        net(x)
    for place, (old, new) in enumerate(zip(before, inputs, strict=True)):
        for key, moment in (("mean_shifts", torch.mean), ("variance_shifts", lambda t, d: t.var(d, correction=0))):
            m, n = moment(old, (0, 2, 3)), moment(new, (0, 2, 3))
            assert found[key][place] == pytest.approx(((n - m).norm() / m.norm()).item(), rel=1e-8)
    assert found["mean_shift"] == pytest.approx(sum(found["mean_shifts"]) / 6)
    assert found["variance_shift"] == pytest.approx(sum(found["variance_shifts"]) / 6)


def test_a_tiny_step_shifts_in_proportion():
    net, x = made(depth=8).double(), X.double()
    large, small = (probe(net, x, Y, 0.1, step=step) for step in (2e-6, 1e-6))
    for key in ("distance", "relative_distance", "mean_shift", "variance_shift"):
        assert large[key] / small[key] == pytest.approx(2, rel=1e-2)
    assert small["cosine"] == pytest.approx(1, abs=1e-6)


def test_costs_a_pass_a_layer_and_two():
    net, passes = made(depth=8), []
    net.register_forward_hook(lambda *_: passes.append(1))
    probe(net, X, Y, 0.1, step=None)
    assert len(passes) == 6 + 2


def test_a_step_that_is_none():
    for step, rate in ((0.0, 0.1), (None, 0.0)):
        with pytest.raises(Mistake, match=r"probe\.covariate_shift\.step=.*a positive number"):
            probe(made(depth=8), X, Y, rate, step=step)
