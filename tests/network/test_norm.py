"""Norms against torch's own, or against a transcription of their paper in numpy."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from conftest import presets
from depthlab.errors import Mistake
from depthlab.network import norm

PRESETS = presets("norm")
OPTIONS = {
    name for name, f in vars(norm).items() if getattr(f, "__module__", None) == norm.__name__ and name[0].islower()
}
PER_CHANNEL = {"instance"}  # one value per channel is all that an (N, C) input has

RENORM = {"r_max": 1.4, "d_max": 0.6, "start": 2, "r_steps": 8, "d_steps": 5, "momentum": 0.2}
MOMENTUM = {"m0": 32, "tau": 0.9, "steps": 5}


def make(preset, channels):
    values = dict(PRESETS[preset])
    return getattr(norm, values.pop("name"))(channels, **values)


def randomised(module):
    """The module in float64 with an affine part that cannot be overlooked."""
    for parameter in module.double().parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return module


def batches(count, shape, seed=0):
    """Batches whose mean and scale wander, so that running and batch statistics differ."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    wander = torch.randn(2, count, 1, shape[1], *[1] * (len(shape) - 2), generator=generator, dtype=torch.float64)
    return wander[0] + x * wander[1].exp()


def same(a, b, tolerance=1e-6):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


def over_batch(x):
    """numpy mean, variance and value count of each channel, and the shape that broadcasts them."""
    axes = (0, *range(2, x.ndim))
    return x.mean(axes), x.var(axes), x.size // x.shape[1], (1, -1, *[1] * (x.ndim - 2))


# every option


def test_every_option_has_a_preset():
    assert {values["name"] for values in PRESETS.values()} == OPTIONS


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("shape", [(34, 16), (34, 16, 4, 4)], ids=["2d", "4d"])
@pytest.mark.parametrize("preset", PRESETS)
def test_keeps_shape(preset, shape, train, device):
    module = make(preset, 16).to(device).train(train)
    x = torch.ones(shape, device=device)
    if preset in PER_CHANNEL and len(shape) == 2:
        with pytest.raises(Mistake, match=r"\(34, 16\)"):
            module(x)
        return
    for scale in (0.0, 1.0, 100.0):  # all equal: no variance to divide by
        y = module(scale * x)
        assert y.shape == x.shape
        assert y.is_meta or y.isfinite().all()


@pytest.mark.parametrize("preset", PRESETS)
def test_starts_with_scale_one_and_shift_zero(preset):
    parameters = {name: set(p.tolist()) for name, p in make(preset, 4).named_parameters()}
    wanted = {"weight": {1.0}, "bias": {0.0}}
    assert parameters == {"none": {}, "fixup": {"bias": {0.0}}}.get(preset, wanted)


@pytest.mark.parametrize(
    ("preset", "shape"),
    [(p, s) for p in PRESETS for s in ((6, 8), (6, 8, 3, 3)) if len(s) > 2 or p not in PER_CHANNEL],
)
def test_evaluation_sees_one_image_at_a_time(preset, shape):
    module = randomised(make(preset, 8))
    for x in batches(3, shape):
        module(x)
    module.eval()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    same(module(x).detach(), torch.cat([module(image) for image in x.split(1)]).detach())
    assert all(tensor.equal(state[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("shape", [(5, 4, 2, 2), (20, 8)], ids=["4d", "2d"])
@pytest.mark.parametrize("preset", sorted(PRESETS.keys() - PER_CHANNEL))
def test_gradient(preset, shape):
    module = randomised(make(preset, shape[1]))
    names = [name for name, _ in module.named_parameters()]

    def f(x, *parameters):
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        return functional_call(module, buffers | dict(zip(names, parameters, strict=True)), x)

    x = batches(1, shape)[0].requires_grad_()
    assert torch.autograd.gradcheck(f, (x, *module.parameters()))


@pytest.mark.parametrize("preset", PRESETS)
def test_autocast(preset):
    exact, mixed, x = make(preset, 16), make(preset, 16), torch.randn(32, 16, 4, 4)
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            y = mixed(x.bfloat16())
        torch.testing.assert_close(y.float(), exact(x), rtol=0.02, atol=0.02)
        y.float().square().sum().backward() if y.requires_grad else None
    assert all(t.dtype in (torch.float32, torch.int64) for t in mixed.state_dict().values())


@pytest.mark.parametrize("preset", sorted(PRESETS.keys() - {"none"}))
def test_gradients_are_summed_in_float32_in_bf16(preset):
    """A sum of bfloat16 ones ends at 256, and nn.LayerNorm's on a CPU does (findings/)."""
    module, x = make(preset, 16), torch.randn(32, 16, 16, 16).bfloat16().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    y.backward(torch.ones_like(y))
    shift = dict(module.named_parameters())["bias"]
    assert (shift.grad == x.numel() / shift.numel()).all()


# against torch's own


@pytest.mark.parametrize(("shape", "twin"), [((6, 4), nn.BatchNorm1d), ((6, 4, 3, 3), nn.BatchNorm2d)])
def test_batch_is_torchs(shape, twin):
    ours, theirs = randomised(norm.batch(4)), twin(4).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    for x in batches(4, shape):
        same(ours(x).detach(), theirs(x).detach(), 0)
    assert all(tensor.equal(theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())
    same(ours.eval()(x).detach(), theirs.eval()(x).detach(), 0)


@pytest.mark.parametrize("images", [128, 37])
def test_batch_has_float32s_bits_in_cifars_first_stage(images):
    """Torch alone is off by hundreds of u = 2^-24 there (findings/batch_norm_channels_last.sh)."""
    u, net = 2**-24, norm.batch(16)
    exact = copy.deepcopy(net).double()
    x = (2 * torch.randn(images, 16, 32, 32) + 1).to(memory_format=torch.channels_last)
    y, y_exact = (module(given).detach() for module, given in ((net, x), (exact, x.double())))
    assert (y - y_exact).norm() < 8 * u * y.norm()
    assert y.is_contiguous(memory_format=torch.channels_last)
    for found, wanted in zip(net.buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(found, wanted.to(found.dtype), rtol=16 * u, atol=16 * u)


@pytest.mark.parametrize("wanted", [(True, True, True), (False, True, True), (True, False, False)])
def test_batchs_gradient_in_parts_is_that_of_the_whole(wanted):
    net = norm.batch(8)
    with torch.no_grad():
        net.weight.uniform_(0.5, 2)
        net.bias.normal_()
    x = torch.randn(33, 8, 16, 16).to(memory_format=torch.channels_last)
    towards, found = torch.randn_like(x), []
    for dtype in (torch.float32, torch.float64):
        module, given = copy.deepcopy(net).to(dtype), x.to(dtype).requires_grad_(wanted[0])
        module.weight.requires_grad_(wanted[1])
        module.bias.requires_grad_(wanted[2])
        leaves = [leaf for leaf in (given, module.weight, module.bias) if leaf.requires_grad]
        found.append(torch.autograd.grad(module(given), leaves, towards.to(dtype)))
    for ours, exact in zip(*found, strict=True):
        assert (ours - exact).norm() < 1e-5 * exact.norm()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (norm.group(8, groups=2), nn.GroupNorm(2, 8)),
        (norm.instance(8), nn.InstanceNorm2d(8, affine=True)),
    ],
)
def test_group_and_instance_are_torchs(ours, theirs):
    theirs.double().load_state_dict(randomised(ours).state_dict())
    x = batches(1, (6, 8, 3, 3))[0]
    same(ours(x).detach(), theirs(x).detach())


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 3, 3)])
def test_layer_is_torchs(shape):
    module, x = randomised(norm.layer(8)), batches(1, shape)[0]
    weight, bias = (p.view(8, *[1] * (len(shape) - 2)) for p in (module.weight, module.bias))
    same(module(x).detach(), (F.layer_norm(x, shape[1:]) * weight + bias).detach())


# against the papers


@pytest.mark.parametrize("shape", [(40, 4), (40, 4, 3, 3)])
def test_ghost_is_hoffers(shape):
    module = randomised(norm.ghost(4, size=16))
    weight, bias = (p.detach().numpy() for p in (module.weight, module.bias))
    running_mean, running_var = np.zeros(4), np.ones(4)
    for x in batches(3, shape):
        parts = []
        for part in (x[:16], x[16:32], x[32:]):
            mean, var, count, wide = over_batch(part.numpy())
            x_hat = (part.numpy() - mean.reshape(wide)) / np.sqrt(var + 1e-5).reshape(wide)
            parts.append(weight.reshape(wide) * x_hat + bias.reshape(wide))
            running_mean += 0.1 * (mean - running_mean)
            running_var += 0.1 * (var * count / (count - 1) - running_var)
        same(module(x).detach(), np.concatenate(parts))
    same(module.running_mean, running_mean)
    same(module.running_var, running_var)


def test_ghost_of_the_whole_batch_is_batch():
    ours, theirs = norm.ghost(4, size=6), norm.batch(4)
    for x in batches(3, (6, 4, 3, 3)).float():
        assert ours(x).equal(theirs(x))
    assert ours.running_var.equal(theirs.running_var)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 2, 2)])
def test_renorm_is_ioffes(shape):
    module = randomised(norm.renorm(6, **RENORM))
    weight, bias = (p.detach().numpy() for p in (module.weight, module.bias))
    mu, sigma, clipped = np.zeros(6), np.sqrt(np.ones(6) + 1e-5), set()
    for step, x in enumerate(batches(12, shape).numpy(), 1):
        r_max = np.interp(step, [2, 8], [1, 1.4])
        d_max = np.interp(step, [2, 5], [0, 0.6])
        mean, var, _, wide = over_batch(x)
        sigma_batch = np.sqrt(var + 1e-5)
        r, d = sigma_batch / sigma, (mean - mu) / sigma
        clipped |= {("r", step > 8, bool(v)) for v in (r > r_max) | (r < 1 / r_max)}
        clipped |= {("d", step > 5, bool(v)) for v in abs(d) > d_max}
        r, d = np.clip(r, 1 / r_max, r_max), np.clip(d, -d_max, d_max)
        x_hat = (x - mean.reshape(wide)) / sigma_batch.reshape(wide) * r.reshape(wide) + d.reshape(wide)
        same(module(torch.from_numpy(x)).detach(), weight.reshape(wide) * x_hat + bias.reshape(wide))
        mu, sigma = mu + 0.2 * (mean - mu), sigma + 0.2 * (sigma_batch - sigma)
    assert len(clipped) == 8  # r and d, on the ramp and after it, clipped and not
    x_hat = (x - mu.reshape(wide)) / sigma.reshape(wide)
    same(
        module.eval()(torch.from_numpy(x)).detach(),
        weight.reshape(wide) * x_hat + bias.reshape(wide),
    )


def test_renorm_begins_as_batch_norm():
    ours, theirs = norm.renorm(4, **RENORM), norm.batch(4)
    x, y, z = batches(3, (6, 4, 3, 3)).float()
    for same_as_batch in (x, y):
        torch.testing.assert_close(ours(same_as_batch), theirs(same_as_batch))
    assert not torch.allclose(ours(z), theirs(z))


def test_renorm_without_limits_trains_as_it_evaluates():
    module = randomised(norm.renorm(4, r_max=1e9, d_max=1e9, start=0, r_steps=1, d_steps=1, momentum=0.1))
    for x in batches(3, (6, 4, 3, 3)):
        evaluation = module.eval()(x)
        same(module.train()(x).detach(), evaluation.detach())


def test_renorms_gradient_takes_the_correction_as_constant():
    module = randomised(norm.renorm(4, **RENORM))
    *before, x = batches(7, (6, 4))
    for batch in before:
        module(batch)
    mu, sigma = module.running_mean.clone(), (module.running_var + 1e-5).sqrt()
    x.requires_grad_()
    mean, sigma_batch = x.mean(0), (x.var(0, correction=0) + 1e-5).sqrt()
    r_max = 1 + 0.4 * 5 / 6
    r = (sigma_batch / sigma).clamp(1 / r_max, r_max).detach()
    d = ((mean - mu) / sigma).clamp(-0.6, 0.6).detach()
    y = ((x - mean) / sigma_batch * r + d) * module.weight + module.bias
    wanted = torch.autograd.grad(y.sin().sum(), (x, *module.parameters()))
    for a, b in zip(torch.autograd.grad(module(x).sin().sum(), (x, *module.parameters())), wanted, strict=True):
        same(a, b)


def lam(step, m):
    """The share of the history, eq. as printed: rho^(T / (T - 1) max(T - t, 0)) - rho^T."""
    T = MOMENTUM["steps"]
    rho = min(m / MOMENTUM["m0"], 1) ** (1 / T)
    return rho ** (T / (T - 1) * max(T - step, 0)) - rho**T


def test_momentums_share_grows_from_zero_to_the_ideal_batchs():
    assert lam(1, 8) == pytest.approx(0)
    assert lam(5, 8) == lam(9, 8) == pytest.approx(1 - 8 / 32)
    assert lam(3, 32) == lam(3, 64) == 0


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 2, 2)])
def test_momentum_is_yongs(shape):
    module = randomised(norm.momentum(6, **MOMENTUM))
    weight, bias = (p.detach().numpy() for p in (module.weight, module.bias))
    mu = var = np.full(6, 1e9)  # the first step must not look at them
    mu_inf, var_inf, tau = np.zeros(6), np.ones(6), 0.9 ** (8 / 32)
    for step, x in enumerate(batches(8, shape).numpy(), 1):
        mean, var_batch, _, wide = over_batch(x)
        share = 0 if step == 1 else lam(step, 8)
        mu, var = share * mu + (1 - share) * mean, share * var + (1 - share) * var_batch
        x_hat = (x - mu.reshape(wide)) / np.sqrt(var + 1e-5).reshape(wide)
        same(module(torch.from_numpy(x)).detach(), weight.reshape(wide) * x_hat + bias.reshape(wide))
        mu_inf, var_inf = tau * mu_inf + (1 - tau) * mean, tau * var_inf + (1 - tau) * var_batch
    x_hat = (x - mu_inf.reshape(wide)) / np.sqrt(var_inf + 1e-5).reshape(wide)
    same(
        module.eval()(torch.from_numpy(x)).detach(),
        weight.reshape(wide) * x_hat + bias.reshape(wide),
    )


@pytest.mark.parametrize("size", [32, 64])
def test_momentum_from_the_ideal_batch_on_is_batch(size):
    ours, theirs = norm.momentum(4, **MOMENTUM), norm.batch(4)
    for x in batches(3, (size, 4)).float():
        torch.testing.assert_close(ours(x), theirs(x))


def test_momentum_that_does_not_know_the_runs_length_yet_is_batch():
    ours, theirs = norm.momentum(4, **MOMENTUM | {"steps": None}), norm.batch(4)
    for x in batches(3, (8, 4)).float():
        torch.testing.assert_close(ours(x), theirs(x))


def test_momentums_gradient_flows_through_the_batchs_share():
    module = randomised(norm.momentum(4, **MOMENTUM))
    *before, x = batches(3, (8, 4))
    for batch in before:
        module(batch)
    mu, var, share = module.history_mean.clone(), module.history_var.clone(), lam(3, 8)
    x.requires_grad_()
    mu = share * mu + (1 - share) * x.mean(0)
    var = share * var + (1 - share) * x.var(0, correction=0)
    y = (x - mu) / (var + 1e-5).sqrt() * module.weight + module.bias
    wanted = torch.autograd.grad(y.sin().sum(), (x, *module.parameters()))
    for a, b in zip(torch.autograd.grad(module(x).sin().sum(), (x, *module.parameters())), wanted, strict=True):
        same(a, b)


# mistakes


@pytest.mark.parametrize(
    ("option", "values", "message"),
    [
        ("ghost", {"size": 0}, "norm.size=0: at least 1"),
        ("renorm", RENORM | {"r_max": 0.5}, "norm.r_max=0.5: at least 1"),
        ("renorm", RENORM | {"d_max": -1.0}, "norm.d_max=-1.0: at least 0"),
        ("renorm", RENORM | {"start": -1}, "norm.start=-1: at least 0"),
        ("renorm", RENORM | {"r_steps": 2}, "norm.r_steps=2: at least 3"),
        ("renorm", RENORM | {"d_steps": 0}, "norm.d_steps=0: at least 3"),
        ("momentum", MOMENTUM | {"m0": 0}, "norm.m0=0: at least 1"),
        ("momentum", MOMENTUM | {"tau": 1.0}, "norm.tau=1.0: at least 0 and under 1"),
        ("momentum", MOMENTUM | {"steps": 1}, "norm.steps=1: at least 2"),
        ("group", {"groups": 5}, "norm.groups=5: does not divide 16 channels (nearest: 4)"),
        ("group", {"groups": 0}, "norm.groups=0: does not divide 16 channels (nearest: 1)"),
        ("group", {"groups": 99}, "norm.groups=99: does not divide 16 channels (nearest: 16)"),
    ],
)
def test_mistakes(option, values, message):
    with pytest.raises(Mistake) as mistake:
        getattr(norm, option)(16, **values)
    assert str(mistake.value) == message


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (norm.instance(16), (8, 16, 1, 1)),
        (norm.group(16, groups=16), (8, 16)),
        (norm.batch(16), (1, 16)),
        (norm.ghost(16, size=4), (9, 16)),
        (norm.renorm(16, **RENORM), (1, 16, 1, 1)),
        (norm.momentum(16, **MOMENTUM), (1, 16)),
    ],
)
def test_one_value_has_no_variance(module, shape):
    with pytest.raises(Mistake, match="one value has no variance"):
        module(torch.ones(shape))


def test_batch_takes_its_eps():
    x = torch.randn(8, 3, 4, 4)
    made = norm.batch(3, eps=0.5)
    wanted = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, correction=0) + 0.5).sqrt()
    assert torch.allclose(made(x), wanted, atol=1e-6)
    assert norm.batch(3).eps == 1e-5
    with pytest.raises(Mistake, match=r"norm\.eps=0: a positive number"):
        norm.batch(3, eps=0)
