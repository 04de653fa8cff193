"""Rounding against brute force, and against the formats that torch has."""

import math

import pytest
import torch
from torch.nn import functional

import depthlab
from depthlab.command.compose import compose
from depthlab.command.words import over
from depthlab.network import rounding
from depthlab.network.rounding import half_precision, rounded, rounded_operands
from depthlab.run import build


def by_hand(value, bits):
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * 2 ** (bits + 1)), exponent - bits - 1)  # round() goes to even, too


@pytest.mark.parametrize("bits", [1, 4, 10, 22, 23])
def test_against_brute_force(bits):
    x = torch.cat([torch.randn(500), torch.randn(500) * 1e-20, torch.tensor([0.0, -0.0, 1.5, 2.5, 1 + 2**-11, 1e38])])
    assert rounded(x, bits).tolist() == [by_hand(value, bits) for value in x.tolist()]


def test_against_the_formats_that_torch_has():
    x = torch.randn(10_000)
    assert torch.equal(rounded(x, 7), x.bfloat16().float())
    big = x[x.abs() > 1e-3]
    assert torch.equal(rounded(big, 10), big.half().float())


def test_what_is_not_finite_stays_and_so_does_the_memory():
    x = torch.tensor([math.inf, -math.inf, math.nan])
    assert str(rounded(x, 10)) == str(x)
    image = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert rounded(image, 10).stride() == image.stride()


def test_operands_and_the_gradient_are_rounded_and_nothing_else():
    x, w, b = torch.randn(4, 3, 5, 5, requires_grad=True), torch.randn(2, 3, 3, 3, requires_grad=True), torch.randn(2)
    with rounded_operands(10):
        y = functional.conv2d(x, w, b)
    g = torch.randn_like(y)
    found = torch.autograd.grad(y, [x, w], g)
    xr, wr = (rounded(t.detach(), 10).requires_grad_() for t in (x, w))
    expected = functional.conv2d(xr, wr, b)
    assert torch.equal(y, expected)
    for one, two in zip(found, torch.autograd.grad(expected, [xr, wr], rounded(g, 10)), strict=True):
        assert torch.equal(one, two)
    with rounded_operands(23):
        assert torch.equal(functional.linear(torch.ones(1, 2), w[0, 0, :, :2]), w[0, 0, :, :2].sum(1)[None])


@pytest.fixture
def without_instructions(monkeypatch):
    monkeypatch.setattr(rounding, "_native", lambda dtype: False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_without_instructions_by_hand(without_instructions, dtype):
    x, w, b = torch.randn(4, 3, 5, 5, requires_grad=True), torch.randn(2, 3, 3, 3, requires_grad=True), torch.randn(2)
    with half_precision(dtype, "cpu"):
        y = functional.conv2d(x, w, b)
    assert y.dtype == dtype
    g = torch.randn(y.shape).to(dtype)
    found = torch.autograd.grad(y, [x, w], g)
    xr, wr = (t.detach().to(dtype).float().requires_grad_() for t in (x, w))
    expected = functional.conv2d(xr, wr, b.to(dtype).float())
    assert torch.equal(y, expected.to(dtype))
    for one, two in zip(found, torch.autograd.grad(expected, [xr, wr], g.float()), strict=True):
        assert torch.equal(one, two.to(dtype).float())


@pytest.mark.parametrize("words", ["norm=batch", "norm=layer", "skip=identity", "network=mlp", "weight=standardised"])
def test_half_precision_without_instructions_is_torchs_to_rounding(without_instructions, words):
    """Mostly: where float32 sums in another order fall on two sides of a half, a ReLU may flip, and all behind it."""
    agreement = []
    for seed in range(5):
        torch.manual_seed(seed)
        net = depthlab.network(over(["depth=8", "skip=none", "data=digits", f"seed={seed}"], words)).train()
        x, y = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
        gradients = []
        for context in (half_precision(torch.bfloat16, "cpu"), torch.autocast("cpu", torch.bfloat16)):
            with context:
                logits = net(x)
            assert logits.dtype == torch.bfloat16
            found = torch.autograd.grad(functional.cross_entropy(logits.float(), y), [*net.parameters()])
            gradients.append(torch.cat([g.flatten() for g in found]))
        agreement.append(functional.cosine_similarity(*gradients, 0))
    assert torch.stack(agreement).median() > 0.9999, agreement  # to float64's gradient bf16 has 0.985 to 0.999


@pytest.mark.parametrize("context", [lambda: half_precision(torch.bfloat16, "cpu"), lambda: rounded_operands(10)])
@pytest.mark.parametrize("given", ["input", "weight", "bias"])
def test_operands_are_rounded_also_where_they_are_given_by_name(without_instructions, context, given):
    named = {"input": torch.randn(4, 3, 5, 5), "weight": torch.randn(2, 3, 3, 3), "bias": torch.randn(2)}
    at = ["input", "weight", "bias"].index(given)
    with context():
        usual = functional.conv2d(*named.values(), padding=1)
        other = functional.conv2d(*[*named.values()][:at], **dict([*named.items()][at:]), padding=1)
    assert torch.equal(usual, other)


def test_a_compiled_network_has_torchs_own_bf16(without_instructions):
    """A compiler leaves out casts to a format and back."""
    x, w = torch.randn(4, 3, 5, 5), torch.randn(2, 3, 3, 3)
    seen = {}
    for words in ("", "compile=true", "recompute=true"):
        cfg = compose(["data=digits", "precision=bf16", *words.split()]).cfg
        with build.working_precision(cfg, torch.device("cpu")):
            seen[words] = functional.conv2d(x, w)
    with torch.autocast("cpu", torch.bfloat16):
        own = functional.conv2d(x, w)
    assert torch.equal(seen[""], functional.conv2d(x.bfloat16().float(), w.bfloat16().float()).bfloat16())
    assert torch.equal(seen["compile=true"], own)
    assert torch.equal(seen["recompute=true"], own)
