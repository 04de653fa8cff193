"""Norms: what keeps the scale of the signal, `norm=ghost norm.size=16`.

Each is made for `channels` channels and maps x to a tensor of its shape, (N, C) and (N, C, H, W) alike, with a scale
`weight` (one at the start) and a shift `bias` (zero) per channel. One that has `before` puts that module in front of
each layer with weights, save the network's first. A value that makes no sense raises Mistake, and so
does an input with a single value to normalise, in the forward pass.
"""

from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from depthlab.errors import Mistake
from depthlab.network.place import ALONE, Place

# Added to the variance, and the new batch's share in the running statistics (Ioffe & Szegedy 2015; torch's defaults).
EPS = 1e-5
MOMENTUM = 0.1
# Values of a channel that torch sums one after another on a CPU, in channels_last memory; more go in several parts.
PART = 4096


def none(channels: int) -> nn.Module:
    """y = x: no norm, no parameters; the layers then have biases."""
    return nn.Identity()


def batch(channels: int, *, eps: float | None = None, sync: bool = False) -> nn.Module:
    """Each channel by its mean and variance over batch and pixels (Ioffe & Szegedy 2015, algorithm 1).

    In evaluation by their running averages. `eps` is added to the variance; None: 1e-5. `sync`: the batch is that of
    all processes of a run, else each process has its own. The state dict has the names of torch's BatchNorm2d.
    """
    eps = EPS if eps is None else eps
    if eps <= 0:
        raise Mistake(f"norm.eps={eps}: a positive number")
    return (_Synchronised if sync else _Batch)(channels, eps)


def ghost(channels: int, *, size: int) -> nn.Module:
    """Batch norm on virtual batches of `size` images, the last one maybe smaller (Hoffer et al. 2017, section 4).

    Each is normalised by its own statistics and updates the running ones in turn; evaluation is batch norm's.
    """
    return _Ghost(channels, size)


def renorm(
    channels: int, *, r_max: float, d_max: float, start: int, r_steps: int, d_steps: int, momentum: float
) -> nn.Module:
    """Batch renormalisation: (x - mu_B) / sigma_B r + d, nearly what evaluation will do (Ioffe 2017, algorithm 1).

    r = sigma_B / sigma and d = (mu_B - mu) / sigma, constants to the gradient, lead from the batch's statistics to
    the running ones, but r stays within a factor R, d within D. Batch norm (R = 1, D = 0) for `start` steps, then R
    grows linearly to `r_max` at step `r_steps`, D to `d_max` at `d_steps` (section 4). `momentum`: a batch's share in
    the running statistics.
    """
    return _Renorm(channels, r_max, d_max, start, r_steps, d_steps, momentum)


def momentum(channels: int, *, m0: int, tau: float, steps: int | None) -> nn.Module:
    """Momentum batch norm: training, too, normalises by a moving average (Yong et al. 2020, algorithm 1).

    Its history has the share lambda = q^(max(T - t, 0) / (T - 1)) - q, with q = min(m / m0, 1), m the batch's size, t
    the step from 1 and T = `steps`: from 0 to 1 - m / m0, so that the noise falls to that of a batch of `m0`. Only
    the batch's own share has a gradient. Evaluation uses an average of its own, with the share tau^(m / m0). A run
    tells its length where `steps` is None; before it does, lambda is 0, as for T without end.
    """
    return _Momentum(channels, m0, tau, steps)


def layer(channels: int) -> nn.Module:
    """Each image by its mean and variance over channels and pixels (Ba et al. 2016, eq. 3); Wu & He 2018's G = 1."""
    return _Group(1, channels, EPS)


def group(channels: int, *, groups: int) -> nn.Module:
    """Each image and each of `groups` groups of channels by its mean and variance (Wu & He 2018, section 3.1)."""
    if groups < 1 or channels % groups:
        near = min((g for g in range(1, channels + 1) if channels % g == 0), key=lambda g: abs(g - groups))
        raise Mistake(f"norm.groups={groups}: does not divide {channels} channels (nearest: {near})")
    return _Group(groups, channels, EPS)


def instance(channels: int) -> nn.Module:
    """Each image and channel by its mean and variance over the pixels (Ulyanov et al. 2016, eq. 3)."""
    return _Group(channels, channels, EPS)


class _Shift(nn.Module):
    """y = x + b, b one learned number, zero at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class fixup(_Shift):
    """No norm, but the scalars of Fixup (Zhang et al. 2019, section 3, rule 3): y = a x + b, single learned numbers.

    Each convolution, linear map and activation has a bias b before it; the last layer of each branch has a multiplier
    a, one at the start. To be used with `init=fixup`, which is rules 1 and 2. The authors' code gives these scalars a
    tenth of the rate; here they have the whole.
    """

    before: ClassVar = _Shift

    def __init__(self, channels: int, place: Place = ALONE) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1)) if place.last else None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.weight is None else x * self.weight)


def _at_least(low: int, **values: float) -> None:
    for key, value in values.items():
        if value < low:
            raise Mistake(f"norm.{key}={value}: at least {low}")


def _many(values: int, x: Tensor) -> None:
    if values < 2:
        raise Mistake(f"norm: one value has no variance, in an input of shape {tuple(x.shape)}; try norm=layer")


class _Group(nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        _many(input[0].numel() // self.num_groups, input)
        if input.device.type == "cpu" and input.dtype is torch.bfloat16:
            input = input.contiguous()  # else torch 2.10 has wrong gradients
        return super().forward(input)


class _Batch(_BatchNorm):
    running_mean: Tensor  # pyrefly: ignore[bad-override-mutable-attribute]
    running_var: Tensor  # pyrefly: ignore[bad-override-mutable-attribute]
    num_batches_tracked: Tensor  # pyrefly: ignore[bad-override-mutable-attribute]

    def __init__(self, channels: int, eps: float = EPS) -> None:
        super().__init__(channels, eps, MOMENTUM)

    def _check_input_dim(self, input: Tensor) -> None:
        if self.training:
            _many(input.numel() // self.num_features, input)

    def forward(self, input: Tensor) -> Tensor:
        values = input.numel() // self.num_features
        exact = input.device.type != "cpu" or input.is_contiguous() or input.dtype is not torch.float32
        if not self.training or exact or values <= PART or torch.compiler.is_compiling():
            return super().forward(input)
        images = max(1, PART * len(input) // values)
        y, mean, var = _InParts.apply(input, self.weight, self.bias, self.eps, images)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, MOMENTUM)
            self.running_var.lerp_(var * (values / (values - 1)), MOMENTUM)
        return y


class _InParts(torch.autograd.Function):
    """Batch norm; y, and the mean and variance of the batch from those of parts of so many images.

    Summed at once, the 131,072 values that a channel has in CIFAR's first stage cost 8 of float32's 24 bits, which
    takes 13 layers from the depth at which a plain network's gradient is rounding (docs/precision.md).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, images: int) -> tuple[Tensor, ...]:
        parts = x.split(images)
        share = torch.tensor([[len(part) / len(x)] for part in parts])
        statistics = [torch.batch_norm_update_stats(part, None, None, 0) for part in parts]
        means, variances = map(torch.stack, zip(*statistics, strict=True))
        mean = (share * means).sum(0)
        var = (share * (variances + (means - mean) ** 2)).sum(0)
        ctx.eps = eps
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt())
        ctx.mark_non_differentiable(mean, var)
        return functional.batch_norm(x, mean, var, weight, bias, eps=eps), mean, var

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, *statistics = ctx.saved_tensors
        wanted = [*ctx.needs_input_grad[:3]]
        backward = torch.ops.aten.native_batch_norm_backward
        return *backward(gradients[0], x, weight, None, None, *statistics, True, ctx.eps, wanted), None, None


class _Ghost(_Batch):
    def __init__(self, channels: int, size: int) -> None:
        super().__init__(channels)
        _at_least(1, size=size)
        self.size = size

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        return torch.cat([*map(super().forward, input.split(self.size))])


class _Corrected(_Batch):
    """Batch norm and a correction of it: (x - mu_B) / sigma_B r + d, inside one fast batch norm."""

    def correction(self, mean: Tensor, var: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """r and d of a batch of `size` images with this mean and variance; updates the averages."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        self.num_batches_tracked.add_(1)
        x = input.to(self.running_mean.dtype)
        pixels = [0, *range(2, x.dim())]
        mean = x.mean(pixels, keepdim=True)
        var = (x - mean).square().mean(pixels)  # torch.var_mean takes several times as long in channels_last memory
        r, d = self.correction(mean.flatten(), var, len(x))
        return functional.batch_norm(
            input, None, None, self.weight * r, self.weight * d + self.bias, training=True, eps=self.eps
        )


class _Synchronised(_Corrected):
    """Batch norm over the equal batches of several processes; with one, plain batch norm."""

    processes = 1

    def forward(self, input: Tensor) -> Tensor:
        if self.processes == 1:
            return _Batch.forward(self, input)
        self.values = input.numel() // self.num_features * self.processes  # of a channel, over all
        return super().forward(input)

    def correction(self, mean: Tensor, var: Tensor, size: int) -> tuple[Tensor, Tensor]:
        whole_mean = _Sum.apply(mean) / self.processes
        whole_var = _Sum.apply(var + (mean - whole_mean) ** 2) / self.processes
        with torch.no_grad():
            self.running_mean.lerp_(whole_mean, MOMENTUM)
            self.running_var.lerp_(whole_var * (self.values / (self.values - 1)), MOMENTUM)
        sigma = (whole_var + self.eps).sqrt()
        return (var + self.eps).sqrt() / sigma, (mean - whole_mean) / sigma


class _Sum(torch.autograd.Function):
    """The sum over the processes, each of which has a part of the loss, so that its gradient is summed too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradients[0])


class _Renorm(_Corrected):
    def __init__(
        self, channels: int, r_max: float, d_max: float, start: int, r_steps: int, d_steps: int, momentum: float
    ) -> None:
        super().__init__(channels)
        if not 0 < momentum <= 1:
            raise Mistake(f"norm.momentum={momentum}: above 0 and at most 1")
        self.share = momentum
        _at_least(1, r_max=r_max)
        _at_least(0, d_max=d_max, start=start)
        _at_least(start + 1, r_steps=r_steps, d_steps=d_steps)
        self.r_max, self.d_max, self.start, self.r_steps, self.d_steps = r_max, d_max, start, r_steps, d_steps

    @torch.no_grad()
    def correction(self, mean: Tensor, var: Tensor, size: int) -> tuple[Tensor, Tensor]:
        r_max = 1 + (self.r_max - 1) * self._progress(self.r_steps)
        d_max = self.d_max * self._progress(self.d_steps)
        sigma_batch, sigma = (var + EPS).sqrt(), (self.running_var + EPS).sqrt()
        r = (sigma_batch / sigma).clamp(1 / r_max, r_max)
        d = ((mean - self.running_mean) / sigma).clamp(-d_max, d_max)
        self.running_mean.lerp_(mean, self.share)
        self.running_var.copy_(sigma.lerp(sigma_batch, self.share) ** 2 - EPS)  # the paper averages sigma
        return r, d

    def _progress(self, end: int) -> Tensor:
        return ((self.num_batches_tracked - self.start) / (end - self.start)).clamp(0, 1)


class _Momentum(_Corrected):
    history_mean: Tensor
    history_var: Tensor

    def __init__(self, channels: int, m0: int, tau: float, steps: int | None) -> None:
        super().__init__(channels)
        _at_least(1, m0=m0)
        if steps is not None:
            _at_least(2, steps=steps)
        if not 0 <= tau < 1:
            raise Mistake(f"norm.tau={tau}: at least 0 and under 1")
        self.m0, self.tau, self.run_length = m0, tau, steps
        self.register_buffer("history_mean", torch.zeros(channels))
        self.register_buffer("history_var", torch.ones(channels))

    def correction(self, mean: Tensor, var: Tensor, size: int) -> tuple[Tensor, Tensor]:
        q = min(size / self.m0, 1.0)
        end = self.run_length
        left = 1 if end is None else (end - self.num_batches_tracked).clamp(min=0) / (end - 1)
        share = q**left - q
        mixed_mean = share * self.history_mean + (1 - share) * mean
        mixed_var = share * self.history_var + (1 - share) * var
        sigma = (mixed_var + EPS).sqrt()
        with torch.no_grad():
            self.history_mean.copy_(mixed_mean)
            self.history_var.copy_(mixed_var)
            self.running_mean.lerp_(mean, 1 - self.tau ** (size / self.m0))
            self.running_var.lerp_(var, 1 - self.tau ** (size / self.m0))
        return (var + EPS).sqrt() / sigma, (mean - mixed_mean) / sigma
