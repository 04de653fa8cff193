"""The unit, x[l+1] = f(h(x[l]) (+) F(x[l])), and the orders in which its layers stand (He et al. 2016, Fig. 4)."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from depthlab.network.place import ALONE, Place, at
from depthlab.network.recompute import recomputed

Norm = Callable[..., nn.Module]
Activation = Callable[..., nn.Module]


@runtime_checkable
class Splits(Protocol):
    """A skip that also says what of x enters the shortcut, and what the branch."""

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class Projects(Protocol):
    """A skip with a projection, behind which the unit's order puts a norm, as behind those of options B and C."""

    projection: nn.Module


class Unit(nn.Module):
    """One residual unit, or its plain twin where `skip` is None.

    `before` stands in front of the branch F; a shortcut that is a projection sees x after it, an identity x itself
    (He et al. 2016, section 5 and appendix). `after` follows the addition.

    With `recompute` training keeps what enters the unit, and nothing inside.
    """

    recompute: bool = False

    def __init__(
        self,
        before: nn.Sequential,
        branch: nn.Sequential,
        shortcut: nn.Module,
        skip: nn.Module | None,
        after: nn.Sequential,
    ) -> None:
        super().__init__()
        self.before, self.branch, self.after = before, branch, after
        self.shortcut = None if skip is None else shortcut
        self.skip = skip

    @property
    def last(self) -> nn.Module:
        """The norm or the layer with weights that ends F."""
        return next(m for m in reversed(self.branch) if getattr(m, "weight", None) is not None)

    def h(self, x: Tensor, a: Tensor) -> Tensor | None:
        """The shortcut, of F's shape; a = before(x). None in a plain unit."""
        if self.shortcut is None:
            return None
        return self.shortcut(a if isinstance(self.shortcut, nn.Sequential) else x)

    def split(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """The shortcut h(x), and what enters the branch. Some skips scale x before."""
        inner = x
        if isinstance(self.skip, Splits):
            x, inner = self.skip.split(x)
        a = self.before(inner)
        return self.h(x, a), a

    def sides(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """h(x) and F(x), which the skip joins."""
        h, a = self.split(x)
        return h, self.branch(a)

    def f(self, x: Tensor) -> Tensor:
        """F(x) alone."""
        return self.sides(x)[1]

    def forward(self, x: Tensor) -> Tensor:
        return recomputed(self, self.joined, x) if self.recompute and self.training else self.joined(x)

    def joined(self, x: Tensor) -> Tensor:
        """What leaves the unit."""
        h, f = self.sides(x)
        return self.after(f if self.skip is None else self.skip(h, f))


@dataclass(frozen=True)
class Order:
    """`layer`: the order of one layer of F, repeated for each convolution; `after`: the words that end F's last
    layer, if any, which stand after the addition instead.

    Words in front of the convolution (pre-activation) make the first and the last unit special: the first finds
    them done by the stem, before the split; after the last addition they stand once more (He et al. 2016, section
    4.1).
    """

    layer: str
    after: str = ""

    def stem(
        self, conv: nn.Module, norm: Norm, activation: Activation, place: Place = ALONE, *, before: bool = True
    ) -> nn.Sequential:
        """The network's first convolution with its norm and activation, whatever the order; without `before`, those
        in front of a convolution are left to the first unit, for which nothing is special then.
        """
        ahead = self._before()
        words = [*self.layer.split()[len(ahead) :], *(ahead if before else [])]
        return nn.Sequential(OrderedDict(_layers(words, [conv], norm, activation, replace(place, unit=0))))

    def unit(
        self,
        convs: Sequence[nn.Module],
        shortcut: nn.Module,
        skip: nn.Module | None,
        norm: Norm,
        activation: Activation,
        place: Place = ALONE,
        *,
        first: bool,
    ) -> Unit:
        """A unit whose branch holds `convs`; `first`: it follows the stem."""
        if isinstance(skip, Projects):
            skip.projection = self.projection(skip.projection, norm, place)
        layers = _layers(self.layer.split() * len(convs), convs, norm, activation, replace(place, last=True))
        start, end = len(self._before()), len(layers) - len(self.after.split())
        before, branch, after = (
            nn.Sequential(OrderedDict(part))
            for part in ([] if first else layers[:start], layers[start:end], layers[end:])
        )
        return Unit(before, branch, shortcut, skip, after)

    def projection(self, conv: nn.Module, norm: Norm, place: Place = ALONE) -> nn.Sequential:
        """The convolution of a shortcut, of option B or C or `skip=conv`, with the norm that follows one in this
        order.
        """
        words = [word for word in self.layer.split()[len(self._before()) :] if word != "act"]
        return nn.Sequential(OrderedDict(_layers(words, [conv], norm, nn.Identity, place)))

    def tail(self, channels: int, norm: Norm, activation: Activation, place: Place = ALONE) -> nn.Sequential:
        """What follows the last unit's addition."""
        place = replace(place, unit=place.units + 1)
        words = {"norm": lambda: at(norm, place)(channels), "act": at(activation, place)}
        layers = [(word, words[word]()) for word in self._before()]
        return nn.Sequential(OrderedDict(layers + [("shift", shift()) for shift in _shifts(norm)]))

    def _before(self) -> list[str]:
        return list(takewhile(lambda word: word != "conv", self.layer.split()))


def _layers(
    words: Sequence[str], convs: Sequence[nn.Module], norm: Norm, activation: Activation, place: Place
) -> list[tuple[str, nn.Module]]:
    """The words as named modules: conv1, norm1, act1, conv2, ... A norm has the channels that reach it."""
    layers: list[tuple[str, nn.Module]] = []
    count = dict.fromkeys(("conv", "norm", "act"), 0)
    norms = words.count("norm")
    out, channels = _channels(convs[0])
    channels = channels if words[0] != "conv" else out
    for word in words:
        count[word] += 1
        if word == "conv":
            module = convs[count[word] - 1]
            channels, _ = _channels(module)
            layers += [(f"shift{count[word]}", shift()) for shift in _shifts(norm) if place.unit]
        elif word == "norm":
            module = at(norm, replace(place, last=place.last and count[word] == norms))(channels)
        else:
            module = at(activation, place)()
        layers.append((f"{word}{count[word]}", module))
    return layers


def _shifts(norm: Norm) -> list[Activation]:
    """What the norm puts in front of each layer with weights: nothing, or a module."""
    before = getattr(getattr(norm, "func", norm), "before", None)
    return [] if before is None else [before]


def _channels(layer: nn.Module) -> tuple[int, int]:
    weight = layer.get_parameter("weight")
    return weight.shape[0], weight.shape[1]


def original() -> Order:
    """Fig. 4(a): the unit of He et al. 2015."""
    return Order("conv norm act", after="act")


def bn_after_addition() -> Order:
    """Fig. 4(b): the last norm follows the addition."""
    return Order("conv norm act", after="norm act")


def relu_before_addition() -> Order:
    """Fig. 4(c): F ends in a ReLU and is never negative; nothing follows the addition."""
    return Order("conv norm act")


def relu_only_preact() -> Order:
    """Fig. 4(d): the ReLU stands before each convolution, the norm after it."""
    return Order("act conv norm")


def preact() -> Order:
    """Fig. 4(e): full pre-activation."""
    return Order("norm act conv")


def norm_after_activation() -> Order:
    """The unit of He et al. 2015 with each norm and activation swapped."""
    return Order("conv act norm", after="act norm")
