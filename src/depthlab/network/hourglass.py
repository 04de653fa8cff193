"""Stacked hourglass networks (Newell, Yang and Deng 2016, section 3), and their plain twins."""

from dataclasses import replace

from torch import nn

from depthlab.errors import Mistake, one_of, within
from depthlab.network.levels import Level, PerPixel, Pixelwise, Said, connection, joined_levels
from depthlab.network.place import Place, at
from depthlab.network.resnet import Skip, Weight, added, nearest
from depthlab.network.skip import identity
from depthlab.network.unit import Activation, Norm, Order, Unit
from depthlab.network.weight import plain

BLOCKS = {"basic": ((3, 3), (1, 1)), "bottleneck": ((1, 3, 1), (2, 2, 1))}
"""The convolutions of a unit: kernel sizes, and which part of the width each gives (Newell et al. 2016, Fig. 4)."""


def hourglass(
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
    connected: list[int] | None,
) -> PerPixel:
    """Hourglasses on top of each other, each of which labels every pixel of images of `shape` (channels, height,
    width), and goes on from what the one before it said.

    An hourglass halves the size `levels` times (2x2 maxima) and doubles it again (nearest neighbours), with `width`
    channels throughout. At each level stands a residual unit on the way down, one on the way up, and one in the
    connection, which `skip` joins to what comes up: `identity` (the paper). At the bottom stands one more, and one
    behind the whole; then two 1x1 convolutions, of which the second gives the logits. Two more lead to the next
    hourglass. So k layers a unit, 3 in a bottleneck, make (k (3 levels + 2) + 4) n - 1 layers for n hourglasses. The
    first layer is 3x3 and keeps the size, where the paper's begins with a quarter of it. With `skip=none` the unit of
    the connection follows in the chain; residual units keep their own shortcuts. connected: the levels that are
    joined, 1 the largest; None: all.

    Raises Mistake on a depth, a block or levels that do not fit, and on a skip that concatenates, or scales.
    """
    joined, block = joined_levels(levels, connected, skip), block or "bottleneck"
    if block not in BLOCKS:
        raise one_of("block", block, BLOCKS)
    kernels, parts = BLOCKS[block]
    within("width", width, max(parts), reason=f"{block} blocks have parts of it")
    each = len(kernels) * (3 * levels + 2) + 4
    n, rest = divmod(depth + 1, each)
    if rest or n < 1:
        near = nearest(depth, [each * max(k, 1) - 1 for k in (n, n + 1)])
        raise Mistake(
            f"depth={depth}: with network.levels={levels} {block} hourglasses have {each}n-1 layers: {near}"
        )
    bias = isinstance(norm(width), nn.Identity)
    place = Place(depth, n * (3 * levels + 2), unit=0)

    def conv(channels: int, out: int, kernel: int, *, bias: bool = bias) -> nn.Conv2d:
        return at(weight, place)(channels, out, (kernel, kernel), 1, bias)

    def residual() -> Unit:
        nonlocal place
        place = replace(place, unit=place.unit + 1, since=place.since + 1)
        outs = [width // part for part in parts]
        convs = [conv(c, o, k) for c, o, k in zip([width, *outs], outs, kernels, strict=False)]
        return unit.unit(convs, nn.Identity(), identity(width), norm, activation, place, first=False)

    def level(number: int) -> Level:
        down = nn.Sequential(nn.MaxPool2d(2), residual())
        inner = level(number + 1) if number < levels else residual()
        up = nn.Sequential(residual(), nn.Upsample(scale_factor=2))
        join = added(connection(skip, place, width)) if number in joined else None
        return Level(down, inner, up, residual(), join, nn.Identity())

    def glass() -> tuple[nn.Sequential, nn.Sequential, Pixelwise]:
        stage = nn.Sequential(level(1), residual())
        return stage, unit.stem(conv(width, width, 1), norm, activation, place), Pixelwise(width, classes)

    stem = unit.stem(conv(shape[0], width, 3), norm, activation, place, before=False)
    said = [
        Said(*glass(), conv(width, width, 1, bias=True), conv(classes, width, 1, bias=True)) for _ in range(n - 1)
    ]
    stage, tail, head = glass()
    return PerPixel(stem, [*said, stage], tail, head, block, levels=levels)
