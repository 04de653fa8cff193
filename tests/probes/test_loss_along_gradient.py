"""The loss along the gradient against copied networks, its smoothness against curvatures."""

import copy

import pytest
import torch
from test_inside import made, same, snapshot
from torch import nn
from torch.nn import functional

from depthlab.errors import Mistake
from depthlab.network import norm, skip
from depthlab.probes import loss_along_gradient as probe

X, Y = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 10
STEPS = [0.1, 0.4, 0.2]


def at(net, x, y):
    """Loss and gradient, flat, by a backward pass in training mode."""
    net.train().zero_grad()
    loss = functional.cross_entropy(net(x), y)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in net.parameters()])


@pytest.mark.parametrize("norms", [norm.batch, norm.none])
def test_against_copies_that_take_the_step(norms):
    net = made(depth=8, norms=norms).double()
    x = X.double()
    found = probe(net, x, Y, 0.1, steps=STEPS)
    losses, changes = [], []
    for step in STEPS:
        moved = copy.deepcopy(net)
        _, before = at(moved, x, Y)
        torch.optim.SGD(moved.parameters(), step).step()
        loss, after = at(moved, x, Y)
        losses.append(loss)
        changes.append((after - before).norm().item())
    ratios = [change / (step * before.norm().item()) for step, change in zip(STEPS, changes, strict=True)]
    assert found["losses"] == pytest.approx(losses, rel=1e-9)
    assert [found["loss_low"], found["loss_high"]] == pytest.approx([min(losses), max(losses)])
    assert found["loss_range"] == pytest.approx(max(losses) - min(losses))
    assert found["gradient"] == pytest.approx(before.norm().item())
    assert found["gradient_change"] == pytest.approx(max(changes))
    assert found["gradient_change_mean"] == pytest.approx(sum(changes) / 3)
    assert found["gradient_change_relative"] == pytest.approx(max(changes) / before.norm().item())
    assert found["smoothness"] == pytest.approx(max(ratios))


class Quadratic(nn.Module):
    """theta^T diag(curvatures) theta / 2, in two parameters."""

    def __init__(self, curvatures, start):
        super().__init__()
        self.curvatures = torch.tensor(curvatures)
        self.a, self.b = (nn.Parameter(torch.tensor(value)) for value in start)

    def forward(self, x):
        return (self.curvatures * torch.stack([self.a, self.b]) ** 2).sum() / 2


def test_smoothness_of_a_quadratic_is_its_curvature_along_the_gradient(monkeypatch):
    monkeypatch.setattr(functional, "cross_entropy", lambda output, y: output)
    for start, curvature in (((1.0, 0.0), 3.0), ((0.0, 1.0), 0.5)):
        found = probe(Quadratic([3.0, 0.5], start), X, Y, 0.1, steps=STEPS)
        assert found["smoothness"] == pytest.approx(curvature, rel=1e-5)
        assert found["losses"] == pytest.approx([curvature / 2 * (1 - s * curvature) ** 2 for s in STEPS], rel=1e-5)
        assert found["gradient"] == pytest.approx(curvature)
    between = probe(Quadratic([3.0, 0.5], (1.0, 1.0)), X, Y, 0.1, steps=STEPS)["smoothness"]
    assert between == pytest.approx((3**4 + 0.5**4) ** 0.5 / (3**2 + 0.5**2) ** 0.5, rel=1e-5)


def test_smoothness_of_short_steps_is_the_hessian_times_the_gradient():
    net, x = made(depth=8, width=2).double(), X.double()
    found = probe(net, x, Y, 0.1, steps=[1e-6])
    weights = [*net.parameters()]
    g = torch.autograd.grad(functional.cross_entropy(net.train()(x), Y), weights, create_graph=True)
    square = sum((part * part).sum() for part in g)
    hg = torch.autograd.grad(square / 2, weights)
    curvature = torch.cat([part.flatten() for part in hg]).norm() / square.sqrt()
    assert found["smoothness"] == pytest.approx(curvature.item(), rel=1e-3)


def test_without_steps_it_takes_multiples_of_the_rate():
    net = made(depth=8)
    assert probe(net, X, Y, 0.2, steps=None) == probe(net, X, Y, 0.7, steps=[0.1, 0.2, 0.4, 0.8])


def test_it_is_of_the_weights_alone():
    def dropout(channels):
        return skip.dropout(channels, p=0.5, rescale=False)

    net = made(depth=8, join=dropout).train()
    before = snapshot(net)
    first = probe(net, X, Y, 0.1, steps=[0.1, 0.1])
    assert first["losses"][0] == first["losses"][1]
    torch.set_rng_state(before[3])
    assert same(before, snapshot(net))


def test_costs_a_pass_a_step_and_one():
    net, passes = made(depth=8), []
    net.register_forward_hook(lambda *_: passes.append(1))
    probe(net, X, Y, 0.1, steps=STEPS)
    assert len(passes) == 4


@pytest.mark.parametrize(("steps", "rate"), [([], 0.1), ([0.1, -0.1], 0.1), (None, 0.0)])
def test_steps_that_are_none(steps, rate):
    with pytest.raises(Mistake, match=r"probe\.loss_along_gradient\.steps=.*positive numbers"):
        probe(made(depth=8), X, Y, rate, steps=steps)
