"""Skips against He et al. 2016, Table 1 and Fig. 2, each written out once more without convolutions."""

from math import sqrt

import pytest
import torch
from torch import nn
from torch.func import functional_call

from conftest import presets
from depthlab.config import bind
from depthlab.errors import Mistake
from depthlab.network import init, resnet, skip, unit

OPTIONS = {
    name for name, f in vars(skip).items() if getattr(f, "__module__", None) == skip.__name__ and name[0] != "_"
}
SHAPES = pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2, 1)], ids=["2d", "4d"])


PRESETS = presets("skip")
RESIDUAL = sorted(PRESETS.keys() - {"none"})
GATES = [preset for preset, values in PRESETS.items() if "bias" in values]


def make(preset, channels, **changes):
    return bind(skip, PRESETS[preset] | changes, "skip")(channels)


def randomised(module):
    """In float64, with weights and biases of order one: a gate at its own bias of -6 is nearly closed."""
    for parameter in module.double().parameters():
        nn.init.normal_(parameter)
    return module


def x_and_f(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64).unbind()


# every option


def test_every_option_has_a_preset():
    assert {values["name"] for values in PRESETS.values()} == OPTIONS


def test_none_is_no_module():
    assert make("none", 4) is None


@SHAPES
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("preset", RESIDUAL)
def test_keeps_shape(preset, device, train, shape):
    x, f = (t.float().to(device) for t in x_and_f(shape))
    y = make(preset, 4).to(device).train(train)(x, f)
    assert y.shape == x.shape
    assert y.device == x.device
    assert y.is_meta or y.isfinite().all()


@SHAPES
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("preset", RESIDUAL)
def test_gradient(preset, train, shape):
    module = randomised(make(preset, 4)).train(train)
    names = [name for name, _ in module.named_parameters()]

    def y(x, f, *parameters):
        torch.manual_seed(0)  # the same entries dropped each time
        return functional_call(module, dict(zip(names, parameters, strict=True)), (x, f))

    x, f = (t.requires_grad_() for t in x_and_f(shape))
    assert torch.autograd.gradcheck(y, (x, f, *module.parameters()))


@SHAPES
@pytest.mark.parametrize("preset", RESIDUAL)
def test_autocast(preset, shape):
    module = make(preset, 4).eval()
    x, f = (t.float() for t in x_and_f(shape))
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x.bfloat16(), f.bfloat16())
    torch.testing.assert_close(y.float(), module(x, f), rtol=0.03, atol=0.03)


# against the papers


def linear(w, x):
    """W x at each pixel, w (out, in, 1, 1)."""
    return torch.einsum("oi,ni...->no...", w[:, :, 0, 0], x)


def g(x, w, b):
    return 1 / (1 + torch.exp(-(linear(w, x) + b.view(-1, *[1] * (x.dim() - 2)))))


# The columns "on shortcut" and "on F" of Table 1 with its numbers; dropout as in evaluation.
FORMULAS = {
    "identity": lambda x, f: x + f,
    "scaled": lambda x, f: 0.5 * x + 1 * f,
    "scaled_both": lambda x, f: 0.5 * x + 0.5 * f,
    "rescaled": lambda x, f: (x + f) / sqrt(2),
    "exclusive_gate": lambda x, f, b, w: (1 - g(x, w, b)) * x + g(x, w, b) * f,
    "shortcut_gate": lambda x, f, b, w: (1 - g(x, w, b)) * x + f,
    "conv": lambda x, f, w: linear(w, x) + f,
    "dropout": lambda x, f: 0.5 * x + f,
}


@SHAPES
@pytest.mark.parametrize("preset", FORMULAS)
def test_is_hes(preset, shape):
    module = randomised(make(preset, 4)).eval()
    x, f = (t.requires_grad_() for t in x_and_f(shape))
    before = x.clone(), f.clone()
    parameters = [p for _, p in sorted(module.named_parameters(), key=lambda pair: pair[1].dim())]  # b, W
    ours, theirs = module(x, f), FORMULAS[preset](x, f, *parameters)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad(y.sin().sum(), (x, f, *parameters)) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)
    assert x.equal(before[0])
    assert f.equal(before[1])


@pytest.mark.parametrize(("scale", "branch"), [(0.0, 1.0), (0.3, 1.7), (1.0, 1.0)])
def test_scaled_takes_any_factors(scale, branch):
    x, f = x_and_f((5, 4, 3, 2))
    torch.testing.assert_close(make("scaled", 4, scale=scale, branch=branch)(x, f), scale * x + branch * f)


# gates


@pytest.mark.parametrize("preset", GATES)
def test_gates_start_at_the_best_bias_of_table_1(preset):
    assert make(preset, 3).bias.tolist() == [-6.0] * 3


@pytest.mark.parametrize("bias", [-6.0, 0.0, -0.1])
@pytest.mark.parametrize("preset", GATES)
@pytest.mark.parametrize("filled_by", presets("init"))
def test_no_init_touches_the_bias_of_a_gate(filled_by, preset, bias):
    option = bind(skip, PRESETS[preset] | {"bias": bias}, "skip")
    choices = {"family": "cifar", "shortcut": "A", "stride_in": "1x1"}
    net = resnet((3, 8, 8), 10, 8, 4, None, unit.preact(), option, nn.BatchNorm2d, nn.ReLU, **choices)
    net.activation = "relu"
    bind(init, presets("init")[filled_by], "init")(net)
    for u in net.units:
        assert u.skip.bias.equal(torch.full_like(u.skip.bias, bias))
        assert u.skip.conv.weight.count_nonzero()


# dropout


@pytest.mark.parametrize("shape", [(100, 100), (10, 10, 10, 10)])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.9])
def test_dropout(p, rescale, shape):
    torch.manual_seed(0)
    module = make("dropout", shape[1], p=p, rescale=rescale).double()
    x, f = x_and_f(shape)
    m = (module.train()(x, f) - f) / x
    kept, mean = (1 / (1 - p), 1.0) if rescale else (1.0, 1 - p)
    dropped = m.abs() < 1e-6
    torch.testing.assert_close(m, torch.where(dropped, 0.0, kept).double(), rtol=1e-6, atol=1e-6)
    assert dropped.double().mean() == pytest.approx(p, abs=5 * sqrt(p * (1 - p) / x.numel()))
    assert m.mean() == pytest.approx(mean, abs=5 * kept * sqrt(p * (1 - p) / x.numel()) + 1e-12)
    if 0 < p < 1 and x.dim() == 4:
        assert dropped.flatten(2).double().std(2).count_nonzero() > 90  # entries, not whole channels
    torch.testing.assert_close(module.eval()(x, f), mean * x + f)


def test_dropout_draws_anew():
    module, x = make("dropout", 50), torch.ones(50, 50)
    assert not module(x, x).equal(module(x, x))


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_dropouts_probability(p):
    with pytest.raises(Mistake) as mistake:
        skip.dropout(4, p=p, rescale=False)
    assert str(mistake.value) == f"skip.p={p}: a probability, at least 0 and under 1"
