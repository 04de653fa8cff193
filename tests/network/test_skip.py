"""Skips against He et al. 2016, Table 1 and Fig. 2, each written out once more without convolutions."""

from math import sqrt

import pytest
import torch
from torch import nn
from torch.func import functional_call

import depthlab
from conftest import ADDING, presets
from depthlab.config import bind
from depthlab.errors import Mistake
from depthlab.network import activation, init, mlp, norm, resnet, skip, unit
from depthlab.network.place import Place

OPTIONS = {
    name for name, f in vars(skip).items() if getattr(f, "__module__", None) == skip.__name__ and name[0] != "_"
}
SHAPES = pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2, 1)], ids=["2d", "4d"])


PRESETS = presets("skip")
RESIDUAL = sorted({*ADDING} - {"none"})
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
def test_concat_puts_the_channels_side_by_side(shape):
    x, f = x_and_f(shape)
    y = make("concat", 3)(x[:, :2], f)
    assert torch.equal(y[:, :2], x[:, :2])
    assert torch.equal(y[:, 2:], f)


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
    "stochastic_depth": lambda x, f: x + 0.5 * f,  # the last unit, in evaluation
    "rezero": lambda x, f, alpha: x + alpha * f,
    "skipinit": lambda x, f, alpha: x + alpha * f,
    "layerscale": lambda x, f, scale: x + torch.einsum("c,nc...->nc...", scale, f),
    "nf": lambda x, f: x + 0.2 * f,
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


# places: depth and the unit's number


def built(preset, depth=20, **changes):
    """A network of CIFAR's form, basic blocks, no norm."""
    torch.manual_seed(0)
    choices = {"family": "cifar", "shortcut": "B", "stride_in": "1x1"} | changes
    join = bind(skip, PRESETS[preset], "skip")
    net = resnet((3, 8, 8), 10, depth, 4, None, unit.preact(), join, norm.none, activation.relu, **choices)
    net.activation = "relu"
    init.kaiming(net, fan="fan_in", distribution="normal", gain=None, zero_last=False)
    return net


@pytest.mark.parametrize("depth", [20, 56, 110])
def test_survival_falls_linearly_to_a_half(depth):
    """Huang et al. 2016, eq. 4 with p_L = 0.5: p_l = 1 - l / 2L, 3 L / 4 of the units on average, less a quarter."""
    units, count = built("stochastic_depth", depth).units, (depth - 2) // 2
    p = [u.skip.p for u in units]
    assert p == pytest.approx([1 - 0.5 * (i + 1) / count for i in range(count)])
    assert sum(p) == pytest.approx((3 * count - 1) / 4)  # section 3: 40 of 54 at depth 110, "E(L~) ~ 3 L / 4"


def test_a_batch_drops_a_branch_for_all_its_images():
    torch.manual_seed(0)
    module, (x, f) = make("stochastic_depth", 3, survival=0.3).train(), x_and_f((4, 3))
    drawn = [module(x, f) for _ in range(400)]
    kept = [y.equal(x + f) for y in drawn]
    assert all(y.equal(x + f) or y.equal(x) for y in drawn)
    assert sum(kept) / 400 == pytest.approx(0.3, abs=5 * sqrt(0.3 * 0.7 / 400))


@pytest.mark.parametrize("survival", [-0.1, 1.5, float("nan")])
def test_survival_is_a_probability(survival):
    with pytest.raises(Mistake, match=r"skip\.survival=.*: a probability, from 0 to 1"):
        skip.stochastic_depth(4, survival=survival)


@pytest.mark.parametrize(("preset", "start"), [("rezero", 0.0), ("skipinit", 0.0), ("layerscale", 1e-5)])
def test_learned_scales_start_as_published_and_no_init_moves_them(preset, start):
    net, plain = built(preset), built("identity")
    added = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in plain.parameters())
    scales = [parameter for u in net.units for parameter in u.skip.parameters()]
    assert all(s.eq(start).all() for s in scales)
    assert added == (3 * (4 + 8 + 16) if preset == "layerscale" else 9)  # one a unit, or one a channel


@pytest.mark.parametrize("preset", ["rezero", "skipinit"])
def test_the_first_output_is_that_of_the_shortcuts_alone(preset):
    net, x = built(preset), torch.randn(2, 3, 8, 8)
    a = net.stem(x)
    for u in net.units:
        a = a if isinstance(u.shortcut, nn.Identity) else u.shortcut(u.before(a))
    torch.testing.assert_close(net(x), net.head(net.tail(a)))


def brocks_beta(units, alpha):
    """Brock et al. 2021, section 3: the expected deviation grows in a stage, and each stage begins anew at one."""
    expected, found = 1.0, []
    for n in units:
        for i in range(n):
            found.append(expected**0.5)
            expected = (1.0 if i == 0 else expected) + alpha**2
    return found


@pytest.mark.parametrize("depth", [20, 56])
def test_nf_keeps_brocks_books(depth):
    count = (depth - 2) // 6
    assert [u.skip.beta for u in built("nf", depth).units] == pytest.approx(brocks_beta([count] * 3, 0.2))


def test_an_nf_unit_is_brocks_equation():
    """h + alpha f(h / beta); where the shape changes, the projection sees h / beta, as the branch does."""
    net = built("nf").double()
    same, changing = net.units[1], net.units[3]
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(same(x), x + 0.2 * same.branch(same.before(x / sqrt(1 + 0.2**2))))
    a = changing.before(x / sqrt(1 + 3 * 0.2**2))
    torch.testing.assert_close(changing(x), changing.shortcut(a) + 0.2 * changing.branch(a))


def test_a_fully_connected_networks_units_know_their_places():
    join = bind(skip, PRESETS["nf"] | {"alpha": 1.0}, "skip")
    net = mlp((1, 2, 2), 3, 6, 8, None, unit.preact(), join, norm.none, activation.relu)
    assert [u.skip.beta**2 for u in net.units] == pytest.approx([1, 2, 3, 4])


def test_a_place_is_told_only_to_those_that_ask():
    seen = []

    def asks(channels, place):
        seen.append(place)
        return skip.identity(channels)

    choices = {"family": "cifar", "shortcut": "A", "stride_in": "1x1"}
    parts = unit.original(), asks, norm.batch, activation.relu
    resnet((3, 8, 8), 10, 14, 4, None, *parts, **choices)
    since, changes = [0, 1, 2, 1, 2, 1], [False, False, True, False, True, False]
    assert seen == [Place(14, 6, i + 1, since[i], changes[i]) for i in range(6)]


@pytest.mark.parametrize(("shortcut", "variances"), [("B", [1, 2, 3, 4, 2]), ("C", [1, 2, 2, 2, 2])])
def test_nf_begins_anew_behind_each_projection(shortcut, variances):
    """A projection sees x / beta, of variance one; alpha = 1 adds one in each unit."""
    net = depthlab.network(f"data=digits depth=20 width=4 skip=nf skip.alpha=1 norm=none network.shortcut={shortcut}")
    assert [unit.skip.beta**2 for unit in net.units][:5] == pytest.approx(variances)
