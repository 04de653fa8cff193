"""The slice against networks moved by hand, its directions against the definition, its measures on known surfaces."""

import copy
import importlib
import math

import pytest
import torch
from test_inside import made
from torch import nn
from torch.nn import functional

from depthlab.errors import Mistake
from depthlab.network import norm
from depthlab.probes import loss_surface as probe
from depthlab.probes.loss_surface import curvatures, filter_normalised

X, Y = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(32) % 10
SMALL = {"points": 3, "line_points": 5, "reach": 0.5, "seed": 7}


class Linear(nn.Module):
    """Logits W x + b."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x)


def trained_a_little(**keys):
    """A network whose running statistics are not those of the start."""
    net = made(depth=8, **keys)
    net.train()
    for _ in range(3):
        net(X + 1)
    return net


def directions(net, seed=7):
    draw = torch.Generator().manual_seed(seed)
    return filter_normalised(net, draw), filter_normalised(net, draw)


def test_a_linear_models_slice_is_the_closed_form():
    net, x, y = Linear(), torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    found = probe(net, x, y, 0.1, **SMALL)
    (first, second), w = directions(net), net.head.weight.detach()
    assert found["alpha"] == found["beta"] == [-0.5, 0, 0.5]
    assert found["line"] == [-0.5, -0.25, 0, 0.25, 0.5]
    for i, b in enumerate(found["beta"]):
        for j, a in enumerate(found["alpha"]):
            logits = x @ (w + a * first["head.weight"] + b * second["head.weight"]).T + net.head.bias
            loss = logits.logsumexp(1) - logits[torch.arange(6), y]
            assert found["loss"][i][j] == pytest.approx(loss.mean().item(), rel=1e-5)
            assert found["error"][i][j] == pytest.approx(100 * (logits.argmax(1) != y).float().mean().item())
    assert found["line_loss"][0::2] == pytest.approx(found["loss"][1], rel=1e-6)
    assert found["line_error"][0::2] == pytest.approx(found["error"][1])


def test_against_a_copy_moved_by_hand():
    net = trained_a_little()
    found, (first, second) = probe(net, X, Y, 0.1, **SMALL), directions(net)
    moved = copy.deepcopy(net).eval()
    with torch.no_grad():
        for name, weight in moved.named_parameters():
            if name in first:
                weight.add_(0.5 * first[name] - 0.5 * second[name])
        logits = moved(X)
    assert found["loss"][0][2] == pytest.approx(functional.cross_entropy(logits, Y).item(), rel=1e-4)
    assert found["error"][0][2] == pytest.approx(100 * (logits.argmax(1) != Y).float().mean().item())


def test_images_do_not_see_each_other():
    net = trained_a_little()
    whole, *halves = (probe(net, X[part], Y[part], 0.1, **SMALL) for part in (slice(32), slice(16), slice(16, 32)))
    means = [sum(pair) / 2 for pair in zip(*(half["line_loss"] for half in halves), strict=True)]
    assert whole["line_loss"] == pytest.approx(means, rel=1e-5)


def test_directions_have_the_norm_of_every_filter_and_leave_biases_and_norms():
    for net in (made(), made(norms=norm.none)):
        with torch.no_grad():
            net.stem.conv1.weight[1] = 0
        first, second = directions(net)
        assert {*first} == {n for n, _ in net.named_parameters() if "conv" in n or "head" in n} - {
            n for n, _ in net.named_parameters() if n.endswith("bias")
        }
        for name, d in first.items():
            weight = net.get_parameter(name)
            for j in range(len(weight)):
                assert d[j].square().sum().sqrt().item() == pytest.approx(weight[j].norm().item(), rel=1e-5)
        cosine = torch.cosine_similarity(
            *(torch.cat([d.flatten() for d in one.values()]) for one in (first, second)), 0
        )
        assert abs(cosine) < 0.1
        again, other = directions(net), directions(net, seed=8)
        assert all(torch.equal(again[0][n], first[n]) and not torch.equal(other[0][n], first[n]) for n in first)


def test_curvatures_of_a_quadratic():
    u, v = torch.meshgrid(torch.arange(5.0), torch.arange(4.0), indexing="xy")
    low, high = curvatures(u * u - 3 * v * v + u * v + 2 * u - 1)
    expected = torch.linalg.eigvalsh(torch.tensor([[2.0, 1.0], [1.0, -6.0]]))
    assert low.shape == (2, 3)
    assert torch.allclose(low, expected[0].expand(2, 3), atol=1e-5)
    assert torch.allclose(high, expected[1].expand(2, 3), atol=1e-5)


def test_measures_of_the_slice(monkeypatch):
    """A bowl for a <= 0, and a saddle beside it."""

    def value(a, b):
        return 0.8 + 2 * (a * a + b * b) - (3 * b * b if a > 0 else 0)

    module = importlib.import_module("depthlab.probes.loss_surface")
    monkeypatch.setattr(module, "evaluated", lambda net, x, y, first, a, second, b: (value(a, b), 50.0))
    found = probe(Linear(), X, Y, 0.1, **SMALL | {"points": 5, "reach": 1.0})
    values = [value(a, b) for b in found["beta"] for a in found["alpha"]]
    assert [v for line in found["loss"] for v in line] == pytest.approx(values)
    assert found["basin"] == pytest.approx(100 * sum(v < math.log(3) for v in values) / 25)
    assert 0 < found["basin"] < 100
    assert found["mean_log_loss"] == pytest.approx(sum(map(math.log10, values)) / 25)
    # at a = 1/2, and at a = 0 where the neighbours beyond the edge pull it down, b = -1/2 and 1/2
    assert found["nonconvex"] == pytest.approx(100 * 5 / 9)


@pytest.mark.parametrize(("images", "passes"), [(32, 1), (501, 2)])
def test_costs_what_it_says(images, passes):
    net, seen = made(depth=8), []
    net.register_forward_hook(lambda *_: seen.append(1))
    probe(net, X[:1].expand(images, -1, -1, -1), Y[:1].expand(images), 0.1, **SMALL)
    assert len(seen) == (3**2 + 5) * passes


@pytest.mark.parametrize("wrong", [{"points": 2}, {"line_points": 0}])
def test_too_few_points(wrong):
    with pytest.raises(Mistake, match=r"probe\.loss_surface\.\w*points=\d: at least \d"):
        probe(made(depth=8), X, Y, 0.1, **SMALL | wrong)
