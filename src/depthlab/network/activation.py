"""Activations: the non-linearity between the layers."""

from functools import cache
from math import acos, pi, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from depthlab.errors import Mistake
from depthlab.network.place import ALONE, Place


def relu() -> nn.Module:
    """max(x, 0), the papers' own."""
    return nn.ReLU()


def tanh() -> nn.Module:
    """tanh(x) (Glorot & Bengio 2010)."""
    return nn.Tanh()


def sigmoid() -> nn.Module:
    """1 / (1 + exp(-x)) (Ioffe & Szegedy 2015, section 4.2.2)."""
    return nn.Sigmoid()


def identity() -> nn.Module:
    """x: a linear network."""
    return nn.Identity()


def leaky_relu(*, slope: float) -> nn.Module:
    """x where it is positive, else slope x (Maas et al. 2013)."""
    return nn.LeakyReLU(slope)


def tailored(place: Place = ALONE, *, eta: float) -> nn.Module:
    """A leaky ReLU whose slope comes from the depth, scaled to keep the mean square (TAT; Zhang et al. 2022).

    sqrt(2 / (1 + slope^2)) times the leaky ReLU; the slope is the least one with which a chain as long as the
    network's weighted layers brings the cosine of two orthogonal inputs to at most `eta` (section 4). The authors'
    code counts the activations, one less. They rescale weights where channels widen: `init.rescale=true`.
    """
    if not 0 < eta < 1:
        raise Mistake(f"activation.eta={eta}: above 0 and under 1")
    return _Tailored(_tat_slope(place.depth, eta))


def mirrored_relu() -> nn.Module:
    """max(z, 0) and max(-z, 0) in each pair of channels, z the difference of the two that came in.

    The concatenated ReLU (Shang et al. 2016; Balduzzi et al. 2017, section 5), which doubles its channels, as one
    that leaves their number, which must be even: the layers before it have twice the outputs instead, each with a
    gradient of its own, so that a step moves their difference twice as far. Made for `init=looks_linear`.
    """
    return _Mirrored()


class _Tailored(nn.Module):
    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope, self.scale = slope, sqrt(2 / (1 + slope**2))

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(x, self.slope) * self.scale

    def extra_repr(self) -> str:
        return f"slope={self.slope:g}"


class _Mirrored(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            raise Mistake(f"activation=mirrored_relu: pairs channels, and {x.shape[1]} is odd; choose an even width")
        z = x[:, 0::2] - x[:, 1::2]
        return torch.stack([z.relu(), (-z).relu()], 2).flatten(1, 2)


@cache
def _tat_slope(depth: int, eta: float) -> float:
    """The slope of a leaky ReLU of which `depth` in a chain take the cosine 0 to `eta`; 0 where a ReLU stays below.

    By bisection, as that cosine falls with the slope (Zhang et al. 2022, section 4).
    """
    low, high = 0.0, 1.0
    while (slope := (low + high) / 2) not in (low, high):
        low, high = (slope, high) if _cosine(slope, depth) > eta else (low, slope)
    return low


def _cosine(slope: float, depth: int) -> float:
    """Of two orthogonal inputs after `depth` layers: c + (1 - s)^2 / (pi (1 + s^2)) (sqrt(1 - c^2) - c acos(c))."""
    c, weight = 0.0, (1 - slope) ** 2 / (pi * (1 + slope**2))
    for _ in range(depth):
        c = min(c + weight * (sqrt(1 - c * c) - c * acos(c)), 1.0)
    return c
