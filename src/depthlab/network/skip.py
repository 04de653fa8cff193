"""Skips: how a unit joins its shortcut x and its branch f = F(x) (He et al. 2016, section 3, Fig. 2 and Table 1).

Each is a module `(x, f) -> y` on tensors of one shape, `concat` aside, made for `channels` channels, and is named as
it is typed: `skip=exclusive_gate`. A plain network has none.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from depthlab.errors import Mistake, within
from depthlab.network.place import ALONE, Place


def none(channels: int) -> None:
    """y = f: a plain network, the same layers without the shortcut (He et al. 2015, section 3.3)."""


class identity(nn.Module):
    """y = x + f (He et al. 2015, eq. 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return x + f


class concat(nn.Module):
    """y = [x, f], the channels of f behind those of x (Huang et al. 2017, eq. 2): the join of `network=densenet`,
    where f has `channels` channels and x any number of them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return torch.cat([x, f], 1)


class scaled(nn.Module):
    """y = scale x + branch f: `scale` is the lambda of He et al. 2016, eq. 6; `branch` weighs F as in Fig. 2(b)."""

    def __init__(self, channels: int, *, scale: float, branch: float) -> None:
        super().__init__()
        self.scale, self.branch = scale, branch

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return self.scale * x + self.branch * f

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}, branch={self.branch:g}"


class _Pointwise(nn.Conv2d):
    """A 1x1 convolution on (N, C, H, W), the same linear map on (N, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1, bias=False)

    def forward(self, input: Tensor, bias: Tensor | None = None) -> Tensor:
        if input.dim() == 2:
            return functional.linear(input, self.weight.flatten(1), bias)
        return functional.conv2d(input, self.weight, bias)


class _Gate(nn.Module):
    """g(x) = sigmoid(W_g x + b_g), W_g a 1x1 convolution, b_g = `bias` at the start (He et al. 2016, section 3.1).

    b_g is a parameter of the gate, not of the convolution, so that no init resets it.
    """

    def __init__(self, channels: int, *, bias: float) -> None:
        super().__init__()
        self.conv = _Pointwise(channels)
        self.bias = nn.Parameter(self.conv.weight.new_full((channels,), bias))

    def g(self, x: Tensor) -> Tensor:
        return self.conv(x, self.bias).sigmoid()


class exclusive_gate(_Gate):
    """y = (1 - g(x)) x + g(x) f: exclusive gating, as in Highway networks (He et al. 2016, Fig. 2(c))."""

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        g = self.g(x)
        return (1 - g) * x + g * f


class shortcut_gate(_Gate):
    """y = (1 - g(x)) x + f: shortcut-only gating (He et al. 2016, Fig. 2(d))."""

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return (1 - self.g(x)) * x + f


class conv(nn.Module):
    """y = W x + f, W a 1x1 convolution on every shortcut (He et al. 2016, Fig. 2(e)), in a unit with the norm that
    follows each convolution there, as that figure's caption says.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection: nn.Module = _Pointwise(channels)

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return self.projection(x) + f


class dropout(nn.Module):
    """y = m x + f, each entry of m zero with probability `p`, else one; in evaluation its mean, m = 1 - p.

    He et al. 2016, Fig. 2(f): "a scale of lambda with an expectation of 0.5". `rescale` divides m by 1 - p, so that
    the expectation is one, as most libraries do today.
    """

    def __init__(self, channels: int, *, p: float, rescale: bool) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise Mistake(f"skip.p={p}: a probability, at least 0 and under 1")
        self.p, self.scale = p, 1.0 if rescale else 1 - p

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return self.scale * functional.dropout(x, self.p, self.training) + f


class stochastic_depth(nn.Module):
    """y = x + b f, b one with probability p_l, else zero, drawn once a batch, by each process for its part of it; in
    evaluation y = x + p_l f.

    Huang et al. 2016, eqs. 2 and 5. p_l = 1 - l / L (1 - `survival`) falls linearly over the L units, to `survival`
    in the last (eq. 4). A dropped branch is computed all the same, so that its norm sees every batch, and its weights
    still decay. Where the size halves the authors' shortcuts average 2x2 pixels; ours are `network.shortcut`'s.
    """

    def __init__(self, channels: int, place: Place = ALONE, *, survival: float) -> None:
        super().__init__()
        if not 0 <= survival <= 1:
            raise Mistake(f"skip.survival={survival}: a probability, from 0 to 1")
        self.p = 1 - place.unit / place.units * (1 - survival)

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        if not self.training:
            return x + self.p * f
        return x + (torch.rand((), device=f.device) < self.p) * f

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


class skipinit(nn.Module):
    """y = x + alpha f, alpha a learned number, `start` at the start (De & Smith 2020, section 3).

    The same as ReZero (Bachlechner et al. 2020, eq. 1), `skip=rezero`, which starts at zero, too. ReZero's authors
    leave out the ReLU behind the addition and keep batch norm: `skip=rezero unit=relu_before_addition norm=batch`.
    """

    def __init__(self, channels: int, *, start: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((), start))

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return x + self.alpha * f


class layerscale(nn.Module):
    """y = x + diag(lambda) f, lambda learned, a number a channel, at first `start` (Touvron et al. 2021, eq. 4)."""

    def __init__(self, channels: int, *, start: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), start))

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return x + self.scale.view(-1, *[1] * (f.dim() - 2)) * f


class nf(nn.Module):
    """y = x + alpha F(x / beta), beta the expected deviation of x (Brock et al. 2021, section 3).

    A unit adds alpha^2 to the variance, which is taken as one after the stem; a unit that changes the shape sees
    x / beta in its shortcut, too, so that the variance starts again at one, as it does in each unit where all project
    (`network.shortcut=C`). That holds for shortcuts by projection, as in the paper (`network.shortcut=B`);
    zero-padding halves the mean variance there. Until the first of these units it is about a third with
    `unit=preact`, whose stem ends in a ReLU. F itself keeps the variance if made of standardised convolutions
    (`weight=standardised`). The authors' code weighs F with a learned number, too, zero at the start (see
    `skipinit`); the formula has none.
    """

    def __init__(self, channels: int, place: Place = ALONE, *, alpha: float) -> None:
        super().__init__()
        within("skip.alpha", alpha, 0, ends="(]")
        self.alpha, self.beta, self.changes = alpha, (1 + place.since * alpha**2) ** 0.5, place.changes

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scaled = x / self.beta
        return scaled if self.changes else x, scaled

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return x + self.alpha * f

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, beta={self.beta:g}"
