"""Inits: the weights at the start, `init=kaiming init.fan=fan_out`.

Each fills a network in place: the weights of every nn.Conv2d and nn.Linear, whose biases become zero, and no other
parameter. `zero_last` then zeroes the norm or the layer that ends each unit's branch, so that a unit starts as its
shortcut (Goyal et al. 2017, section 5.1). A negative gain or std raises Mistake, and so does `zero_last` in a plain
network, of which nothing would be left. Random numbers come from torch's global generator.
"""

from collections.abc import Callable, Iterable, Iterator
from math import sqrt
from typing import Literal, Protocol

from torch import Tensor, nn, no_grad, stack

from depthlab.errors import Mistake
from depthlab.network.silence import check_learns, silence

# By activation: He et al. 2015b, eq. 10, for the ReLU; torch.nn.init.calculate_gain for most others. A leaky ReLU's
# is divided by sqrt(1 + slope^2) (He et al. 2015b, eq. 15); a tailored or mirrored one keeps the mean square itself.
GAINS = {"relu": sqrt(2), "tanh": 5 / 3, "sigmoid": 1.0, "identity": 1.0}
GAINS |= {"leaky_relu": sqrt(2), "tailored": 1.0, "mirrored_relu": 1.0}

ZERO = "no unit has a shortcut (skip=none, or a U-Net), and the network would be zero and not train"


class _Unit(Protocol):
    branch: nn.Module
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


def delta_orthogonal(net: _Net, *, gain: float | None, rescale: bool, zero_last: bool) -> None:
    """Kernels that are zero but in the centre, and there `gain` times a random orthogonal matrix, out x in, so that
    each layer keeps every length (Xiao et al. 2018, algorithm 1); gain: null, the activation's.

    With fewer outputs than inputs the rows are orthogonal, else the columns. `rescale` multiplies by
    sqrt(max(out / in, 1)): the mean square of a channel stays where channels are added (Martens et al. 2021, SUO).
    """
    gain = _gain(net, gain)

    def fill(weight: Tensor) -> None:
        out, channels = weight.shape[:2]
        scale = sqrt(max(out / channels, 1)) if rescale else 1.0
        with no_grad():
            _centre(weight.zero_()).copy_(nn.init.orthogonal_(weight.new_empty(out, channels), gain * scale))

    _fill(net, fill, zero_last)


def looks_linear(net: _Net, *, centre: bool, zero_last: bool) -> None:
    """Pairs of channels that begin as each other's mirror image, [[W, -W], [-W, W]] with W orthogonal, so that a ReLU
    network begins as a linear one: W max(z, 0) - W max(-z, 0) = W z (Balduzzi et al. 2017, section 5). With shortcuts
    the ReLU behind the addition sees no mirror: `unit=relu_before_addition` is linear, `original` and `preact` not.

    The first layer has no mirror in its inputs, the last none in its outputs. `activation=mirrored_relu`, the paper's
    concatenated ReLU, keeps the mirror in training, an ordinary ReLU only begins with it. `centre`: in a kernel's
    centre alone, as in `delta_orthogonal`, which keeps every length; else W is the whole kernel, out x (in, kernel),
    which loses the signal to the zeros around the image (how the authors fill a kernel could not be read). Raises
    Mistake on an odd number of channels, and on networks that label pixels.
    """
    if getattr(net, "labels", "images") == "pixels":
        raise Mistake("init=looks_linear: pairs the channels of layers in a row, and networks of pixels have others")
    layers = list(_layers(net))
    half = 0.5 if net.activation == "mirrored_relu" else 1.0  # which takes the pair's difference
    for count in (layer.weight.shape[0] for layer in layers[:-1]):
        if count % 2:
            raise Mistake(f"init=looks_linear: pairs channels, and {count} is odd; choose an even width")

    def fill(weight: Tensor) -> None:
        into, outof = weight is not layers[0].weight, weight is not layers[-1].weight
        part = _centre(weight) if centre else weight
        (out, channels), kernel = part.shape[:2], part.shape[2:]
        w = nn.init.orthogonal_(weight.new_empty(out // (1 + outof), channels // (1 + into), *kernel))
        w = stack([w, -w], 2).flatten(1, 2) if into else w
        w = stack([half * w, -half * w], 1).flatten(0, 1) if outof else w
        with no_grad():
            weight.zero_()
            part.copy_(w)

    _fill(net, fill, zero_last)


def fixup(net: _Net) -> None:
    """Fixup (Zhang et al. 2019, section 3): He et al.'s init, the last layer of each branch and of the network zero,
    the branches' other layers times L^(-1 / (2m - 2)), for L units of m layers. Its scalars are `norm=fixup`.
    """
    gain, units = _gain(net, None), _skipping(net)
    _fill(net, lambda w: _draw(w, gain / sqrt(_fans(w)["fan_in"]), "normal"), False)
    last = [list(_layers(net))[-1]]
    if not units:
        raise Mistake(f"init=fixup: {ZERO}")
    for unit in units:
        check_learns(unit, "init=fixup")
        *layers, end = _layers(unit.branch)
        last.append(end)
        for layer in layers:
            if (made := getattr(layer, "made", None)) and made() is not layer.weight:
                raise Mistake("init=fixup: scales weights, which these are made anew from; choose weight=plain")
            with no_grad():
                layer.weight.mul_(len(units) ** (-1 / (2 * len(layers))))
    for layer in last:
        silence(layer)


def torch(net: _Net, *, zero_last: bool) -> None:
    """torch's own default, weights and biases as constructed: uniform within 1 / sqrt(fan_in)."""
    _zero_last(net, zero_last)


def _centre(weight: Tensor) -> Tensor:
    """The weights in a kernel's centre, out x in; of a linear map all."""
    return weight[(slice(None), slice(None), *(size // 2 for size in weight.shape[2:]))]


def _gain(net: _Net, gain: float | None) -> float:
    if gain is None:
        slopes = (m.negative_slope for m in net.modules() if isinstance(m, nn.LeakyReLU))
        if net.activation not in GAINS:
            raise Mistake(f"activation={net.activation}: its gain is not known; init.gain=1.4 or so says it")
        return GAINS[net.activation] / sqrt(1 + next(slopes, 0.0) ** 2)
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


def _layers(net: _Net | nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    return (module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear))


def _fill(net: _Net, fill: Callable[[Tensor], object], zero_last: bool) -> None:
    for module in _layers(net):
        if not module.weight.is_meta:  # slow, though there is no weight
            fill(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    _zero_last(net, zero_last)


def _skipping(net: _Net) -> list[_Unit]:
    return [unit for unit in net.units if unit.skip is not None]


def _zero_last(net: _Net, zero_last: bool) -> None:
    if not zero_last:
        return
    if not (units := _skipping(net)):
        raise Mistake(f"init.zero_last=true: {ZERO}")
    for unit in units:
        check_learns(unit, "init.zero_last=true")
        silence(unit.last)
