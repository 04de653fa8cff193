"""All paths of a small network, one by one."""

from functools import partial
from itertools import combinations
from math import comb

import pytest
import torch
from test_inside import dense
from torch.nn import functional

from depthlab.errors import Mistake
from depthlab.network import activation, norm, skip, unit
from depthlab.network.mlp import mlp
from depthlab.probes import paths
from depthlab.probes.paths import _shortest, path_gradient

X, Y = torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(1)).double(), torch.arange(6) % 3


def net(units=4, join=skip.identity, act=activation.identity, order=unit.preact, norms=norm.none):
    torch.manual_seed(0)
    return mlp((1, 2, 2), 3, units + 2, 5, None, order(), join, norms, act).double()


def true_gradient(made):
    start = made.stem(X).detach().requires_grad_()
    functional.cross_entropy(made.head(made.tail(made.stages(start))), Y).backward()
    return start.grad


@pytest.mark.parametrize("act", [activation.identity, activation.relu, activation.tanh])
def test_the_gradient_is_the_sum_over_all_paths(act):
    made = net(act=act)
    chosen = [{*some} for k in range(5) for some in combinations(made.units, k)]
    assert len(chosen) == 16
    assert torch.allclose(sum(path_gradient(made, X, Y, some) for some in chosen), true_gradient(made), atol=1e-12)


def test_a_pass_leaves_no_trace_in_the_next_also_where_the_norm_looks_at_earlier_batches():
    made = net(norms=partial(norm.renorm, r_max=3.0, d_max=5.0, start=0, r_steps=1, d_steps=1, momentum=0.5)).train()
    first, second = (path_gradient(made, X, Y, {*made.units}) for _ in range(2))
    assert torch.equal(first, second)
    assert first.norm() > 0


def test_one_path_is_the_product_of_its_weights():
    made = net()
    weights = [layer.branch.conv1.weight for layer in made.units]
    logits = made(X)
    error = (logits.softmax(1) - functional.one_hot(Y, 3)) / 6
    expected = error @ made.head.weight @ weights[2] @ weights[0]
    found = path_gradient(made, X, Y, {made.units[0], made.units[2]})
    assert torch.allclose(found, expected, atol=1e-12)


def test_the_paths_of_a_dense_network_sum_up_too():
    made = dense(7).double()
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    joined = [module for module in made.units if module.skip is not None]
    some = [{*chosen} for k in range(4) for chosen in combinations(joined, k)]
    start = made.stem(x).detach().requires_grad_()
    functional.cross_entropy(made.head(made.tail(made.stages(start))), Y).backward()
    found = sum(path_gradient(made, x, Y, chosen) for chosen in some)
    assert torch.allclose(found, start.grad, atol=1e-12)
    assert start.grad.norm() > 1e-3
    assert paths(made, x, Y, 0.1, draws=1, seed=0)["count_share"] == [1 / 8, 3 / 8, 3 / 8, 1 / 8]


def test_shares_against_explicit_enumeration():
    """With as many draws the means are those over all paths, to the noise of sampling."""
    made = net()
    found = paths(made, X, Y, 0.1, draws=400, seed=0)
    sizes = [
        [path_gradient(made, X, Y, {*some}).norm().item() for some in combinations(made.units, k)] for k in range(5)
    ]
    exact = [sum(norms) for norms in sizes]
    assert found["count_share"] == [comb(4, k) / 16 for k in range(5)]
    assert found["gradient"] == pytest.approx([total / comb(4, k) for k, total in enumerate(exact)], rel=0.05)
    assert found["gradient_share"] == pytest.approx([total / sum(exact) for total in exact], rel=0.08)
    assert sum(found["gradient_share"]) == pytest.approx(1)
    assert found["mean_count_length"] == 2
    mean = sum(k * total for k, total in enumerate(exact)) / sum(exact)
    assert found["mean_length"] == pytest.approx(mean, rel=0.05)


def test_a_plain_network_has_one_path():
    made = net(join=skip.none, order=unit.original, act=activation.relu)
    found = paths(made, X, Y, 0.1, draws=2, seed=0)
    assert found["count_share"] == found["gradient_share"] == [0, 0, 0, 0, 1]
    assert found["gradient"][4] == pytest.approx(true_gradient(made).norm().item())
    assert (found["effective_from"], found["effective_to"], found["effective_share"]) == (4, 4, 1)


def test_the_shortest_run_that_holds_the_effective_share():
    assert _shortest([0.01, 0.5, 0.46, 0.03]) == (1, 2)
    assert _shortest([0.25, 0.25, 0.25, 0.25]) == (0, 3)
    assert _shortest([float("nan")] * 3) == (0, 2)


@pytest.mark.parametrize("units", [3, 6])
def test_costs_the_passes_that_it_states(units):
    made, passes = net(units), []
    made.head.register_forward_hook(lambda *_: passes.append(1))
    paths(made, X, Y, 0.1, draws=2, seed=0)
    assert len(passes) == 2 * (units + 1)
    with pytest.raises(Mistake, match=r"probe\.paths\.draws=0: at least 1"):
        paths(made, X, Y, 0.1, draws=0, seed=0)
