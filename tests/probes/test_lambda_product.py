"""The gradient through the shortcuts alone against lambda's powers, matrices, and a chain by hand."""

import pytest
import torch
from test_activations import fully
from test_inside import dense, made
from torch.nn import functional

from depthlab.errors import Mistake
from depthlab.network import activation, norm, skip, unit
from depthlab.probes import lambda_product
from depthlab.probes.inside import recorded

X, Y = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(8)
PLANE = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def scaled(scale, branch=1.0):
    return lambda channels: skip.scaled(channels, scale=scale, branch=branch)


@pytest.mark.parametrize("scale", [0.5, 0.9, 1.0, 1.1])
def test_without_branches_all_three_are_the_product_of_lambdas(scale):
    found = lambda_product(fully(12, 16, unit.preact, scaled(scale, branch=0.0), norm.none), PLANE, Y, 0.1)
    theory = [scale ** (10 - place) for place in range(11)]
    for key in ("gradient", "shortcut", "product"):
        assert found[key] == pytest.approx(theory, rel=1e-5)
        assert found[f"first_{key}"] == found[key][0]
    assert found["shortcut_factor"] == pytest.approx(scale, rel=1e-5)


@pytest.mark.parametrize(("depth", "block"), [(14, "basic"), (20, "bottleneck")])
@pytest.mark.parametrize("scale", [0.7, 1.1])
def test_with_branches_the_shortcuts_still_are_also_where_the_shape_changes(depth, block, scale):
    net = made(depth, block, unit.preact, scaled(scale))
    found = lambda_product(net, X, Y, 0.1)
    theory = [scale ** (6 - place) for place in range(7)]
    assert found["product"] == pytest.approx(theory, rel=1e-5)
    assert found["shortcut"] == pytest.approx(theory, rel=1e-5)
    assert found["gradient"][-1] == 1
    assert found["gradient"][0] != pytest.approx(theory[0], rel=0.1)


def test_the_whole_gradient_of_a_linear_network_is_a_product_of_matrices():
    net = fully(6, 16, unit.preact, scaled(0.8), norm.none).double()
    for module in [*net.modules()]:
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ReLU):
                setattr(module, name, activation.identity())
    found = lambda_product(net, PLANE.double(), Y, 0.1)
    chance = torch.softmax(net(PLANE.double()), 1) - functional.one_hot(Y, 10)
    slopes = [chance @ net.head.weight / 8]
    for part in reversed(net.units):
        slopes.append(0.8 * slopes[-1] + slopes[-1] @ part.branch.conv1.weight)
    norms = [slope.norm().item() for slope in reversed(slopes)]
    assert found["gradient"] == pytest.approx([n / norms[-1] for n in norms], rel=1e-9)


@pytest.mark.parametrize("gate", [skip.exclusive_gate, skip.shortcut_gate])
@pytest.mark.parametrize("order", [unit.preact, unit.original])
def test_gates_against_a_chain_by_hand(gate, order):
    net = fully(6, 16, order, lambda c: gate(c, bias=-1.0), norm.none).double()
    x = PLANE.double()
    found = lambda_product(net, x, Y, 0.1)
    with recorded([part.branch for part in net.units]) as branches:
        net(x)
    signals = [net.stem(x).detach().requires_grad_()]
    for part, branch in zip(net.units, branches, strict=True):
        signals.append(part.after(part.skip(signals[-1], branch.detach())))
    loss = functional.cross_entropy(net.head(net.tail(signals[-1])), Y)
    norms = [slope.norm().item() for slope in torch.autograd.grad(loss, signals)]
    assert found["shortcut"] == pytest.approx([n / norms[-1] for n in norms], rel=1e-9)
    product = [1.0]
    for part, signal in zip(reversed(net.units), reversed(signals[:-1]), strict=True):
        passed = (1 - torch.sigmoid(signal @ part.skip.conv.weight.flatten(1).T + part.skip.bias)) * signal
        product.append(product[-1] * (passed.norm() / signal.norm()).item())
    assert found["product"] == pytest.approx(product[::-1], rel=1e-9)


def test_a_plain_network_has_no_shortcut():
    found = lambda_product(made(depth=8, join=skip.none), X, Y, 0.1)
    assert found["shortcut"] == found["product"] == [0, 0, 0, 1]
    assert found["first_gradient"] > 0


def test_a_dense_network_is_refused():
    with pytest.raises(Mistake, match=r"^probe=lambda_product: no shortcut leads through a dense network"):
        lambda_product(dense(), X, Y, 0.1)
    assert lambda_product(dense(join=skip.none), X, Y, 0.1)["first_product"] == 0


def test_costs_two_passes():
    net, passes = made(), []
    net.register_forward_hook(lambda *_: passes.append(1))
    lambda_product(net, X, Y, 0.1)
    assert len(passes) == 2
    assert all(not m._forward_hooks for m in net.modules() if m is not net)
