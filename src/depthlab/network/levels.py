"""Networks that label each pixel: levels, each of half the size of the one above, and the connections across."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from depthlab.errors import Mistake, within
from depthlab.network.place import Place, at, named
from depthlab.network.resnet import Network, Skip
from depthlab.network.unit import Splits


class Level(nn.Module):
    """One size of image: y = after(across(x) (+) f), where f = up(inner(down(x))) has been at half the size.

    `inner` is the next level, or nothing at the bottom. Where `skip` is None nothing goes across: what stood there
    follows f, so that the layers are the same, in a chain.
    """

    def __init__(
        self,
        down: nn.Module,
        inner: nn.Module,
        up: nn.Module,
        across: nn.Module,
        skip: nn.Module | None,
        after: nn.Module,
    ) -> None:
        super().__init__()
        self.down, self.inner, self.up = down, inner, up
        self.across, self.skip, self.after = across, skip, after

    def forward(self, x: Tensor) -> Tensor:
        f = self.up(self.inner(self.down(x)))
        if self.skip is None:
            return self.after(self.across(f))
        return self.after(self.skip(middle(self.across(x), f.shape[2:]), f))


class Said(nn.Module):
    """A stage that says what it sees, and from which the next one goes on: x + features(y) + labels(head(y)), where
    y = tail(stage(x)); features and labels are 1x1 convolutions (Newell et al. 2016, Fig. 4).
    """

    def __init__(
        self, stage: nn.Module, tail: nn.Module, head: nn.Module, features: nn.Module, labels: nn.Module
    ) -> None:
        super().__init__()
        self.stage, self.tail, self.head, self.features, self.labels = stage, tail, head, features, labels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the next stage sees, and the logits."""
        y = self.tail(self.stage(x))
        logits = self.head(y)
        return x + self.features(y) + self.labels(logits), logits


class Pixelwise(nn.Linear):
    """The same linear map at each pixel: (N, C, H, W) -> (N, out, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.conv2d(input, self.weight[:, :, None, None], self.bias)


class PerPixel(Network):
    """stem -> stages -> tail -> head: images (N, C, H, W) -> logits (N, classes, H, W).

    In training, where stages say in between what they see, (times, N, classes, H, W), the answer last.

    The convolutions of each size, on the way down, at the bottom and on the way up, cut `cut` rows and columns off.
    Where that and the halving at each of `levels` does not come out at the image's size, the network sees more,
    mirrored at the image's border (Ronneberger et al. 2015, section 2).
    """

    labels = "pixels"

    def __init__(
        self,
        stem: nn.Sequential,
        stages: Sequence[nn.Module],
        tail: nn.Sequential,
        head: Pixelwise,
        block: str,
        *,
        levels: int,
        cut: int = 0,
    ) -> None:
        super().__init__(stem, stages, tail, head, block)
        self.levels, self.cut = levels, cut

    def forward(self, x: Tensor) -> Tensor:
        sides, said = x.shape[2:], []
        x = self.stem(self.framed(x))
        for stage in self.stages:
            x = stage(x)
            if isinstance(x, tuple):
                x, logits = x
                said.append(logits)
        said = [middle(logits, sides) for logits in (*said, self.head(self.tail(x)))]
        return torch.stack(said) if self.training and len(said) > 1 and not self.once else said[-1]

    def framed(self, x: Tensor) -> Tensor:
        """The images with as much around them as the network wants. Raises Mistake where a mirror cannot give it."""
        around: list[int] = []
        for side in reversed(x.shape[2:]):
            missing = next(n for n in range(side, 2**31) if self.left(n) >= side) - side
            if (missing + 1) // 2 >= side:
                height, width = x.shape[2:]
                raise Mistake(
                    f"network.levels={self.levels}: images of {height}x{width} pixels would need {(missing + 1) // 2}"
                    " more on a side, and a mirror gives fewer; choose larger images or fewer levels"
                )
            around += [missing // 2, missing - missing // 2]
        return functional.pad(x, around, mode="reflect") if any(around) else x

    def left(self, side: int) -> int:
        """How large the output is for a side of the input; -1 where a size is odd that has to be halved, or none."""
        for _ in range(self.levels):
            side, odd = divmod(side - self.cut, 2)
            if odd or side < 1:
                return -1
        side -= self.cut
        if side < 1:
            return -1
        for _ in range(self.levels):
            side = 2 * side - self.cut
        return side


def middle(x: Tensor, sides: Sequence[int]) -> Tensor:
    """The middle of x, of the given height and width."""
    top, left = ((have - want) // 2 for have, want in zip(x.shape[2:], sides, strict=True))
    return x[:, :, top : top + sides[0], left : left + sides[1]]


def joined_levels(levels: int, given: Sequence[int] | None, skip: Skip) -> Sequence[int]:
    """The levels with a connection, 1 the largest; None: all. Raises Mistake on a number of levels out of range, on a
    level that is not there, and where a plain network is to have connections.
    """
    within("network.levels", levels, 1, 8)
    for level in given or []:
        within("network.connected", level, 1, levels, "the levels, the largest first")
    if given is not None and skip(1) is None:
        raise Mistake("network.connected: skip=none connects no level; leave it out")
    return range(1, levels + 1) if given is None else given


def connection(skip: Skip, place: Place, channels: int) -> nn.Module | None:
    """The join of a level. Raises Mistake on one that is made for a unit alone."""
    join = at(skip, place)(channels)
    if isinstance(join, Splits):
        raise Mistake(f"skip={named(skip)}: scales what enters a residual unit; a connection has none")
    return join
