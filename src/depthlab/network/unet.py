"""U-Nets of any depth (Ronneberger, Fischer and Brox 2015, section 2), and their plain twins."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from depthlab.errors import Mistake, one_of
from depthlab.network.levels import Level, PerPixel, Pixelwise, connection, joined_levels
from depthlab.network.place import Place, at
from depthlab.network.resnet import Skip, Weight, nearest
from depthlab.network.skip import concat
from depthlab.network.unit import Activation, Norm, Order, Unit
from depthlab.network.weight import plain

CONVS = 2
"""3x3 convolutions of a unit, which has no shortcut of its own."""


def unet(
    shape: tuple[int, int, int],
    classes: int,
    depth: int,
    width: int,
    block: str | None,
    unit: Order,
    skip: Skip,
    norm: Norm,
    activation: Activation,
    weight: Weight = plain,
    *,
    levels: int,
    padded: bool,
    connected: list[int] | None,
) -> PerPixel:
    """A network that labels each pixel of images of `shape` (channels, height, width), `depth` weighted layers deep.

    Each of `levels` halves the size (2x2 maxima) and doubles the channels, `width` at first; an up-convolution undoes
    both. At each size stand n units of two 3x3 convolutions on the way down, at the bottom, and on the way up: with
    the up-convolutions and the last layer, 1x1, (4 levels + 2) n + levels + 1 layers. `skip` joins what was there on
    the way down to what comes up: `concat` (the paper), or one that adds; with `none` nothing but what comes up is
    seen. connected: the levels that are joined, 1 the largest; None: all. Without `padded` each 3x3 convolution costs
    a pixel on every side, and what is joined is cropped, as in the paper.

    Raises Mistake on a depth, a block or levels that do not fit, and on a skip that is made for units alone.
    """
    joined = joined_levels(levels, connected, skip)
    if block not in (None, "basic"):
        raise one_of("block", block, ["basic"])
    each, others = CONVS * (2 * levels + 1), levels + 1
    n, rest = divmod(depth - others, each)
    if rest or n < 1:
        near = nearest(depth, [each * max(k, 1) + others for k in (n, n + 1)])
        raise Mistake(f"depth={depth}: with network.levels={levels} a U-Net has {each}n+{others} layers: {near}")
    bias = isinstance(norm(width), nn.Identity)
    place = Place(depth, n * (2 * levels + 1), unit=0)

    def conv(channels: int, out: int, kernel: int = 3, *, bias: bool = bias) -> nn.Conv2d:
        made = at(weight, place)(channels, out, (kernel, kernel), 1, bias)
        made.padding = made.padding if padded else (0, 0)
        return made

    def units(channels: int, out: int, *, convs: int = CONVS * n) -> nn.Sequential:
        """So many convolutions in units."""
        nonlocal place
        made: list[Unit] = []
        while convs:
            place = replace(place, unit=place.unit + 1)
            count = (convs - 1) % CONVS + 1
            layers = [conv(c, out) for c in [channels, out][:count]]
            follows = place.unit == 1
            made.append(unit.unit(layers, nn.Identity(), None, norm, activation, place, first=follows))
            channels, convs = out, convs - count
        return nn.Sequential(*made)

    stem = unit.stem(conv(shape[0], width), norm, activation, place)
    down = [units(width, width, convs=CONVS * n - 1)]
    down += [units(width * 2**i, width * 2 ** (i + 1)) for i in range(levels)]
    inner: nn.Module = nn.Identity()
    for level in range(levels, 0, -1):
        out = width * 2 ** (level - 1)
        up = nn.Sequential(conv(2 * out, 4 * out, 1, bias=False), nn.PixelShuffle(2), Bias(out))
        join = connection(skip, place, out) if level in joined else None
        after = units(2 * out if isinstance(join, concat) else out, out)
        pooled = nn.Sequential(nn.MaxPool2d(2), *down[level])
        inner = Level(pooled, inner, up, nn.Identity(), join, after)
    tail = unit.tail(width, norm, activation, place)
    stages = [nn.Sequential(*down[0], inner)]
    cut = 0 if padded else 2 * CONVS * n
    return PerPixel(stem, stages, tail, Pixelwise(width, classes), "basic", levels=levels, cut=cut)


class Bias(nn.Module):
    """x + b, a number a channel, zero at the start. Behind a 1x1 convolution to four times the channels, of which
    each four become 2x2 pixels (`nn.PixelShuffle`), it makes an up-convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.view(-1, 1, 1)
