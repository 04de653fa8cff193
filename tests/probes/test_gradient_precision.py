"""The gradient in a format against brute force, for every unit, skip and norm; the law of the ReLUs that flip."""

import copy
import math
from functools import partial

import pytest
import torch
from test_inside import made
from torch.nn import functional

import depthlab
from depthlab.errors import Mistake
from depthlab.network import activation, norm, skip, unit
from depthlab.network.rounding import float32_products_inside, half_precision, rounded
from depthlab.probes import gradient_precision
from depthlab.probes.gradient_precision import cosine, flipped, gradient

UNITS = [unit.original, unit.bn_after_addition, unit.relu_before_addition, unit.relu_only_preact, unit.preact]
SKIPS = [
    *(skip.none, skip.identity, skip.conv),
    partial(skip.exclusive_gate, bias=-1.0),
    partial(skip.scaled, scale=0.5, branch=1.0),
    partial(skip.dropout, p=0.5, rescale=False),
    partial(skip.shortcut_gate, bias=-1.0),
    partial(skip.skipinit, start=0.5),
    partial(skip.layerscale, start=0.1),
    partial(skip.stochastic_depth, survival=0.5),
    partial(skip.nf, alpha=0.2),
]
NORMS = [norm.batch, norm.layer, partial(norm.group, groups=2), norm.instance, norm.none, partial(norm.ghost, size=4)]
RENORM = {"r_max": 3.0, "d_max": 5.0, "start": 0, "r_steps": 1, "d_steps": 1, "momentum": 0.1}
NORMS += [partial(norm.renorm, **RENORM), partial(norm.momentum, m0=4, tau=0.9, steps=10)]
CASES = [(u, skip.identity, norm.batch) for u in [*UNITS, unit.norm_after_activation]]
CASES += [(unit.original, s, norm.batch) for s in SKIPS] + [(unit.original, skip.none, n) for n in NORMS]
X, Y = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(8)


def by_loss(net, x, y):
    torch.manual_seed(0)
    net.zero_grad()
    functional.cross_entropy(net.train()(x), y).backward()
    return torch.cat([p.grad.flatten().double() for p in net.parameters()])


@pytest.mark.parametrize(("order", "join", "norms"), CASES)
def test_float32_against_brute_force(order, join, norms):
    net = made(depth=8, order=order, join=join, norms=norms)
    found = gradient_precision(net, X, Y, 0.1, formats=["fp64", "fp32", "23", "8"])
    exact, single = by_loss(copy.deepcopy(net).double(), X.double(), Y), by_loss(copy.deepcopy(net), X, Y)
    assert found["cosine_fp32"] == pytest.approx(functional.cosine_similarity(exact, single, dim=0).item(), abs=1e-12)
    assert found["error_fp32"] == pytest.approx(((single - exact).norm() / exact.norm()).item(), rel=1e-6)
    assert found["error_fp64"] == 0
    assert found["expected_fp64"] == 1
    assert sum(found["flips_fp64"]) == 0
    assert found["error_23"] == found["error_fp32"]
    assert found["error_8"] > 100 * found["error_fp32"]
    assert len(found["cosines_8"]) == len(found["errors_8"]) == 7


@pytest.mark.parametrize("form", ["bf16", "fp16"])
def test_half_formats_are_what_a_run_computes(form):
    net = made(depth=8)
    with half_precision(torch.bfloat16 if form == "bf16" else torch.float16, "cpu"):
        twin = copy.deepcopy(net).train()
        loss = functional.cross_entropy(twin(X), Y)
    loss.backward()
    expected = torch.cat([p.grad.flatten().double() for p in twin.parameters()])
    exact = by_loss(copy.deepcopy(net).double(), X.double(), Y)
    found = gradient_precision(net, X, Y, 0.1, formats=[form])
    assert found[f"error_{form}"] == pytest.approx(((expected - exact).norm() / exact.norm()).item(), rel=1e-6)


def test_a_gpu_computes_float32_as_it_is_also_where_the_run_takes_tf32():
    inside, net = [], made(depth=8)
    net.stem.register_forward_hook(lambda *_: inside.append(torch.backends.cuda.matmul.fp32_precision))
    with float32_products_inside("tf32"):
        gradient_precision(net, X, Y, 0.1, formats=["fp32"])
        assert inside == ["ieee", "ieee"]
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"


def test_tf32_by_hand():
    """Stem and head of a network of linear maps, every operand rounded by hand, forward and back."""
    net = made(depth=8, norms=norm.none).float()
    conv, signal, weight = net.stem.conv1, rounded(X, 10), rounded(net.stem.conv1.weight.detach(), 10)
    _, signals = gradient(net, X, Y, "tf32")
    by_hand = functional.conv2d(signal, weight, conv.bias, padding=1)
    assert torch.equal(signals[0], by_hand.double())
    head, _ = gradient(net, X, Y, "tf32")
    with torch.no_grad():
        hidden = net.tail(net.stages(net.stem(X)))
    logits = functional.linear(rounded(hidden, 10), rounded(net.head.weight.detach(), 10), net.head.bias)
    slope = (logits.softmax(1) - functional.one_hot(Y, 10)) / 8
    expected = (rounded(slope.detach(), 10).T @ rounded(hidden, 10)).double()
    last = next(g for g in head if g.shape == net.head.weight.shape)
    assert cosine(last, expected) == pytest.approx(1, abs=1e-5)


def test_a_float64_network_is_measured_in_float32_as_well():
    single, double = made(depth=8), made(depth=8).double()
    one, two = (gradient_precision(net, X, Y, 0.1, formats=["tf32"]) for net in (single, double))
    assert one == two


def plain(formats, **choices):
    net = made(depth=26, join=skip.none, width=8, **choices)
    x = X.repeat(8, 1, 1, 1) + torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    return gradient_precision(net, x, Y.repeat(8), 0.1, formats=formats)


def test_plain_networks_lose_their_gradient_by_relus_that_flip():
    found = plain(["8"])
    assert 0.3 < found["cosine_8"] < 0.97
    assert found["cosine_8"] == pytest.approx(found["expected_8"], abs=0.08)
    assert found["flip_ratio_8"] == pytest.approx(sum(found["flips_8"]) * math.pi / sum(found["signals_8"]))
    assert found["gap_8"] == pytest.approx(0, abs=0.08)


def test_a_layer_loses_by_the_relus_behind_it():
    found = plain(["8"])
    assert len(found["signals_8"]) == len(found["expectations_8"]) == len(found["cosines_8"]) == 25
    assert found["expectations_8"][0] == found["expected_8"]
    assert found["expectations_8"][-1] == 1 - found["signals_8"][-1] / math.pi
    gaps = [c - e for c, e in zip(found["cosines_8"], found["expectations_8"], strict=True)]
    assert found["gap_8"] == pytest.approx(sum(gaps) / 25)


@pytest.mark.parametrize(
    ("function", "power"), [(activation.relu, 1), (activation.tanh, 2), (activation.identity, 2)]
)
def test_the_loss_goes_with_the_error_where_relus_flip_and_with_its_square_where_nothing_does(function, power):
    assert plain(["7", "9", "11"], act=function)["power"] == pytest.approx(power, abs=0.3)


def test_flipped():
    assert flipped(torch.tensor([1.0, 0, -1, 2]), torch.tensor([-1.0, -1, 0.5, 3])) == 0.5
    assert math.isnan(flipped(torch.tensor([1.0]), torch.tensor([math.inf])))


def test_of_what_overflows_nothing_is_told():
    net = made(depth=8, join=skip.none, norms=norm.none)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(100)
    found = gradient_precision(net, X, Y, 0.1, formats=["fp16"])
    assert all(math.isnan(found[f"{key}_fp16"]) for key in ("cosine", "expected", "flip_ratio", "gap"))
    assert math.isnan(found["flips_fp16"][-1])


def test_a_layer_without_a_gradient_takes_the_gap_from_no_other():
    found = gradient_precision(made(depth=8, join=partial(skip.skipinit, start=0.0)), X, Y, 0.1, formats=["8"])
    assert any(map(math.isnan, found["cosines_8"]))
    assert abs(found["gap_8"]) < 1


def test_the_stem_of_a_dense_network_has_all_activations_behind_it():
    net = depthlab.network("network=densenet_imagenet depth=121 width=8 data=digits")
    found = gradient_precision(net, torch.randn(4, 1, 32, 32), torch.arange(4), 0.1, formats=["8"])
    assert len(found["signals_8"]) == len(found["expectations_8"]) + 1 == 121
    assert found["expectations_8"][0] == found["expected_8"]


@pytest.mark.parametrize("form", ["fp8", "0", "24", "-1"])
def test_a_format_that_is_none(form):
    with pytest.raises(Mistake, match=r"probe\.gradient_precision\.formats=.*mantissa bits from 1 to 23"):
        gradient_precision(made(depth=8), X, Y, 0.1, formats=[form])


def test_cosine():
    assert cosine(torch.tensor([1.0, 0]), torch.tensor([1.0, 1])) == pytest.approx(math.sqrt(0.5))
