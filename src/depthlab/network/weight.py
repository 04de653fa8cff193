"""How the weights of a convolution are made from its parameters: `weight=standardised`.

Each makes a convolution from `channels` to `out` channels with a kernel (height, width) of odd sizes, padded to keep
the size save for the stride. Inits fill its `weight`, from which it makes its weights in every forward pass.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from depthlab.errors import within
from depthlab.network.place import ALONE, Place

Kernel = tuple[int, int]


def _kept(kernel: Kernel) -> Kernel:
    """The padding that keeps the size."""
    return kernel[0] // 2, kernel[1] // 2


class _Conv(nn.Conv2d):
    """A convolution with the weights `made()`; a strided 1x1 one picks its pixels first: the direct form's weight
    gradient was wrong for few channels (oneDNN 3.12, in torch 2.14).
    """

    def __init__(self, channels: int, out: int, kernel: Kernel, stride: int, bias: bool) -> None:
        super().__init__(channels, out, kernel, stride, _kept(kernel), bias=bias)

    def made(self) -> Tensor:
        return self.weight

    def forward(self, input: Tensor) -> Tensor:
        if self.kernel_size == (1, 1):
            rows, columns = self.stride
            return functional.conv2d(input[:, :, ::rows, ::columns], self.made(), self.bias)
        return functional.conv2d(input, self.made(), self.bias, self.stride, self.padding)


def plain(channels: int, out: int, kernel: Kernel, stride: int, bias: bool) -> nn.Conv2d:
    """The parameters themselves."""
    if kernel == (1, 1) and stride > 1 and channels < 8:
        return _Conv(channels, out, kernel, stride, bias)
    return nn.Conv2d(channels, out, kernel, stride, _kept(kernel), bias=bias)


class standardised(_Conv):
    """g gain (w - mean) / (sigma sqrt(fan_in)) for each output: scaled weight standardisation (Brock et al. 2021a,
    eq. 1; 2021b, section 3; g is in their code).

    `gain` makes up for the activation before the layer: sqrt(2 / (1 - 1 / pi)) for a ReLU; the first layer has none,
    and gain 1. g is a learned number an output, one at the start. `eps`: the least fan_in sigma^2.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: Kernel,
        stride: int,
        bias: bool,
        place: Place = ALONE,
        *,
        gain: float,
        eps: float,
    ) -> None:
        super().__init__(channels, out, kernel, stride, bias)
        within("weight.gain", gain, 0, ends="(]")
        within("weight.eps", eps, 0, ends="(]")
        self.scale, self.eps = gain if place.unit else 1.0, eps
        self.gain = nn.Parameter(torch.ones(out))

    def made(self) -> Tensor:
        var, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        scale = self.scale * (var * self.weight[0].numel()).clamp(min=self.eps).rsqrt()
        return (self.weight - mean) * scale * self.gain.view(-1, 1, 1, 1)


class dirac(_Conv):
    """a delta + b w / ||w||, with the norm of each output's weights: a layer that contains the identity, for networks
    without skips (DiracNet; Zagoruyko & Komodakis 2017, section 3).

    delta is the kernel of the identity; a and b are learned numbers an output, 1 and 0.1 at the start. The network's
    first layer has plain weights. The authors halve the size by maxima, between stages; here a convolution strides.
    """

    delta: Tensor

    def __init__(
        self, channels: int, out: int, kernel: Kernel, stride: int, bias: bool, place: Place = ALONE
    ) -> None:
        super().__init__(channels, out, kernel, stride, bias)
        self.first = place.unit == 0
        if not self.first:
            self.a, self.b = nn.Parameter(torch.ones(out)), nn.Parameter(torch.full((out,), 0.1))
            self.register_buffer("delta", nn.init.dirac_(torch.empty_like(self.weight)), persistent=False)

    def made(self) -> Tensor:
        if self.first:
            return self.weight
        a, b = self.a.view(-1, 1, 1, 1), self.b.view(-1, 1, 1, 1)
        return a * self.delta + b * functional.normalize(self.weight, dim=(1, 2, 3))  # pyrefly: ignore
