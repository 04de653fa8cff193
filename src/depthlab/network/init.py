"""Inits: the weights at the start, `init=kaiming init.fan=fan_out`.

Each fills a network in place: the weights of every nn.Conv2d and nn.Linear, whose biases become zero, and no other
parameter. `zero_last` then zeroes the norm or the layer that ends each unit's branch, so that a unit starts as its
shortcut (Goyal et al. 2017, section 5.1). A negative gain or std raises Mistake, and so does `zero_last` in a plain
network, of which nothing would be left. Random numbers come from torch's global generator.
"""

from collections.abc import Callable, Iterable, Iterator
from math import sqrt
from typing import Literal, Protocol

from torch import Tensor, nn

from depthlab.errors import Mistake

# By activation: He et al. 2015b, eq. 10, for the ReLU; torch.nn.init.calculate_gain for the others.
GAINS = {"relu": sqrt(2), "tanh": 5 / 3, "sigmoid": 1.0, "identity": 1.0}


class _Unit(Protocol):
    skip: nn.Module | None

    @property
    def last(self) -> nn.Module: ...


class _Net(Protocol):
    activation: str

    @property
    def units(self) -> Iterable[_Unit]: ...

    def modules(self) -> Iterator[nn.Module]: ...


def kaiming(
    net: _Net,
    *,
    fan: Literal["fan_in", "fan_out"],
    distribution: Literal["normal", "uniform"],
    gain: float | None,
    zero_last: bool,
) -> None:
    """std = gain / sqrt(fan) (He et al. 2015b, section 2.2): fan_in keeps the variance forward, fan_out backward.

    fan_in is kernel pixels x input channels, fan_out kernel pixels x output channels. A gain of null is the
    activation's: sqrt(2) for a ReLU (eq. 10).
    """
    gain = _gain(net, gain)
    _fill(net, lambda w: _draw(w, gain / sqrt(_fans(w)[fan]), distribution), zero_last)


def xavier(net: _Net, *, distribution: Literal["normal", "uniform"], gain: float, zero_last: bool) -> None:
    """std = gain sqrt(2 / (fan_in + fan_out)) (Glorot & Bengio 2010, eq. 16)."""
    gain = _gain(net, gain)
    _fill(net, lambda w: _draw(w, gain * sqrt(2 / sum(_fans(w).values())), distribution), zero_last)


def normal(net: _Net, *, std: float, zero_last: bool) -> None:
    """N(0, std^2) whatever the fan (Krizhevsky et al. 2012, section 5: std 0.01)."""
    if std < 0:
        raise Mistake(f"init.std={std}: at least 0")
    _fill(net, lambda w: _draw(w, std, "normal"), zero_last)


def orthogonal(net: _Net, *, gain: float | None, zero_last: bool) -> None:
    """gain times a random orthogonal matrix, out x (in, kernel) (Saxe et al. 2014); gain: null, the activation's."""
    gain = _gain(net, gain)
    _fill(net, lambda w: nn.init.orthogonal_(w, gain), zero_last)


def torch(net: _Net, *, zero_last: bool) -> None:
    """torch's own default, weights and biases as constructed: uniform within 1 / sqrt(fan_in)."""
    _zero_last(net, zero_last)


def _gain(net: _Net, gain: float | None) -> float:
    if gain is None:
        return GAINS[net.activation]
    if gain < 0:
        raise Mistake(f"init.gain={gain}: at least 0")
    return gain


def _fans(weight: Tensor) -> dict[str, int]:
    return {"fan_in": weight[0].numel(), "fan_out": weight[:, 0].numel()}


def _draw(weight: Tensor, std: float, distribution: str) -> None:
    if distribution == "normal":
        nn.init.normal_(weight, std=std)
    else:
        nn.init.uniform_(weight, -sqrt(3) * std, sqrt(3) * std)


def _fill(net: _Net, fill: Callable[[Tensor], object], zero_last: bool) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:  # slow, though there is no weight
            fill(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    _zero_last(net, zero_last)


def _zero_last(net: _Net, zero_last: bool) -> None:
    for unit in net.units if zero_last else ():
        if unit.skip is None:
            raise Mistake("init.zero_last=true: a plain network (skip=none) would be zero and not train")
        for parameter in unit.last.parameters():
            nn.init.zeros_(parameter)
