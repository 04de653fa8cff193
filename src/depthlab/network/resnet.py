"""Plain and residual convolutional networks of any depth (He et al. 2015, sections 3.3, 4.1 and 4.2)."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from depthlab.errors import Mistake, one_of
from depthlab.network.place import Place, at
from depthlab.network.recompute import recomputed, side_by_side
from depthlab.network.skip import concat
from depthlab.network.unit import Activation, Norm, Order, Unit
from depthlab.network.weight import plain

Skip = Callable[..., nn.Module | None]
Weight = Callable[..., nn.Conv2d]

# The convolutions of a unit's branch: kernel sizes, and how much wider its last one is (He et al. 2015, Fig. 5; the
# single layer: He et al. 2016, Table 3).
BLOCKS = {"basic": ((3, 3), 1), "bottleneck": ((1, 3, 1), 4), "single": ((3,), 1)}

# He et al. 2015, Table 1; 200: He et al. 2016, Table 5.
IMAGENET = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}


def resnet(
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
    family: Literal["cifar", "imagenet"],
    shortcut: Literal["A", "B", "C"] | None,
    stride_in: Literal["1x1", "3x3"],
) -> "Network":
    """A network for images of `shape` (channels, height, width), `depth` weighted layers deep, as the papers count.

    family: `cifar`, 3 stages of n units, width, 2 width, 4 width channels (section 4.2); or `imagenet`, 4 stages
    (Table 1). shortcut: what brings x to F's shape where the shape changes (section 3.3): A zero-padding, B a
    projection, C projections everywhere; None is the papers' choice, A for CIFAR's basic blocks, else B. stride_in:
    the convolution of a bottleneck that halves the size: 1x1 in the paper, 3x3 in most libraries. Raises Mistake on a
    depth or a block that the family does not have. Where images are signals, one pixel high, a 3x3 kernel is 1x3.
    """
    block, counts = _stages(family, depth, block)
    kernels, expansion = BLOCKS[block]
    shortcut = shortcut or ("A" if family == "cifar" and block != "bottleneck" else "B")
    bias = isinstance(norm(width), nn.Identity)
    strided = kernels.index(max(kernels)) if stride_in == "3x3" else 0
    signals = shape[1] == 1 < shape[2]

    place = Place(depth, sum(counts), unit=0)

    def conv(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
        across = 1 if signals else kernel  # its other rows would see zeros alone, and count in an init's fan-in
        return at(weight, place)(channels, out, (across, kernel), stride, bias)

    if family == "cifar":
        stem = unit.stem(conv(shape[0], width, 3), norm, activation, place)
    else:
        stem = unit.stem(conv(shape[0], width, 7, 2), norm, activation, place)
        stem.append(nn.MaxPool2d(3, 2, 1))

    stages, channels = [], width
    for s, count in enumerate(counts):
        units = []
        for i in range(count):
            inner, stride = width * 2**s, 2 if s > 0 and i == 0 else 1
            outs = [inner] * (len(kernels) - 1) + [inner * expansion]
            changes = channels != outs[-1] or stride > 1
            place = replace(place, unit=place.unit + 1, changes=changes)
            convs = [
                conv(c, o, k, stride if j == strided else 1)
                for j, (c, o, k) in enumerate(zip([channels, *outs], outs, kernels, strict=False))
            ]
            out = outs[-1]
            join = added(at(skip, place)(out))
            projected = join is not None and (shortcut == "C" or (shortcut == "B" and changes))
            if projected:
                resize = unit.projection(conv(channels, out, 1, stride), norm, place)
            else:
                resize = ZeroPad(stride, out - channels) if changes else nn.Identity()
            units.append(unit.unit(convs, resize, join, norm, activation, place, first=s == i == 0))
            channels, place = out, replace(place, since=1 if changes or projected else place.since + 1)
        stages.append(nn.Sequential(*units))
    tail = unit.tail(channels, norm, activation, place).extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    return Network(stem, stages, tail, nn.Linear(channels, classes), block)


def added(join: nn.Module | None) -> nn.Module | None:
    """The join of a unit that gives as many channels as it takes. Raises Mistake on one that concatenates."""
    if isinstance(join, concat):
        raise Mistake("skip=concat: joins in network=densenet and network=unet; the others add (skip=identity)")
    return join


class Network(nn.Module):
    """stem -> stages of units -> tail -> head: images (N, C, H, W) -> logits (N, classes).

    `block` and `activation` are the names of its options; from the latter an init takes the gain. With `recompute`
    training keeps only what passes between units. `labels`: what it labels, images or pixels. A network that says
    several times what it sees, in training, says it `once`, at the end, where that is set.
    """

    activation: str
    _recompute: bool = False
    once: bool = False
    labels = "images"

    def __init__(
        self, stem: nn.Sequential, stages: Sequence[nn.Module], tail: nn.Sequential, head: nn.Linear, block: str
    ) -> None:
        super().__init__()
        self.block = block
        self.stem, self.stages, self.tail, self.head = stem, nn.Sequential(*stages), tail, head

    @property
    def units(self) -> list[Unit]:
        """The units in order, over all stages."""
        return [module for module in self.stages.modules() if isinstance(module, Unit)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        again = self.recompute and self.training
        dense = again and any(isinstance(unit.skip, concat) for unit in self.units)
        return self.head(self.tail(self._concatenated(x) if dense else self.stages(x)))

    @property
    def recompute(self) -> bool:
        """Whether its units are computed again."""
        return self._recompute

    @recompute.setter
    def recompute(self, value: bool) -> None:
        self._recompute = value
        for unit in self.units:
            unit.recompute = value

    def _concatenated(self, x: Tensor) -> Tensor:
        """All stages, recomputed; of a unit that concatenates, only the channels that it adds are kept."""
        parts = [x]
        for unit in self.units:
            if isinstance(unit.skip, concat) and not unit.after:
                parts.append(recomputed(unit, unit.f, *parts))
            else:
                parts = [recomputed(unit, unit.joined, *parts)]
        return side_by_side(parts)


class ZeroPad(nn.Module):
    """Option A: every `stride`-th pixel, then zeros for the missing channels; no parameters."""

    def __init__(self, stride: int, missing: int) -> None:
        super().__init__()
        self.stride, self.missing = stride, missing

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, missing={self.missing}"


def _stages(family: str, depth: int, block: str | None) -> tuple[str, Sequence[int]]:
    """The block and the number of units of each stage."""
    if family == "imagenet":
        if depth not in IMAGENET:
            raise Mistake(f"depth={depth}: {nearest(depth, IMAGENET)} (allowed: {', '.join(map(str, IMAGENET))})")
        usual, counts = IMAGENET[depth]
        if block not in (None, usual):
            raise Mistake(f"block={block}: the ImageNet network of depth {depth} is made of {usual} blocks")
        return usual, counts
    block = block or "basic"
    if block not in BLOCKS:
        raise one_of("block", block, BLOCKS)
    per_n = {name: 3 * len(kernels) for name, (kernels, _) in BLOCKS.items()}
    n, rest = divmod(depth - 2, per_n[block])
    if rest or n < 1:
        near = nearest(depth, [per_n[block] * max(k, 1) + 2 for k in (n, n + 1)])
        other = [f"block={b} fits" for b, p in per_n.items() if depth - 2 >= p and (depth - 2) % p == 0]
        hint = f"; {' and '.join(other)}" if other else ""
        raise Mistake(f"depth={depth}: {block} blocks make {per_n[block]}n+2 layers: {near}{hint}")
    return block, (n, n, n)


def nearest(depth: int, depths: Sequence[int] | dict) -> str:
    """`nearest 20 and 26`: the valid depths on either side."""
    below, above = (
        max((d for d in depths if d < depth), default=None),
        min((d for d in depths if d > depth), default=None),
    )
    return "nearest " + " and ".join(str(d) for d in (below, above) if d is not None)


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of one of torchvision's resnet18 ... resnet152 under our names.

    conv1, bn1 -> stem.conv1, stem.norm1; layer2.0.conv1, bn1 -> stages.1.0.branch.conv1, norm1; downsample.0, 1 ->
    shortcut.conv1, norm1; fc -> head. The twin network is `depth=50 network=imagenet network.stride_in=3x3`. Others
    say shortcut for downsample, and linear for fc.
    """
    return {_ours(name): tensor for name, tensor in state.items()}


def _ours(name: str) -> str:
    name = re.sub(r"^layer(\d)\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.{m[2]}.branch.", name)
    name = re.sub(r"branch\.(downsample|shortcut)\.0", "shortcut.conv1", name)
    name = re.sub(r"branch\.(downsample|shortcut)\.1", "shortcut.norm1", name)
    name = re.sub(r"^(?=conv1|norm1)", "stem.", re.sub(r"\bbn(\d)", r"norm\1", name))
    return re.sub(r"^(fc|linear)\.", "head.", name)


def to_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_torchvision`: our names as torchvision's."""
    return {_theirs(name): tensor for name, tensor in state.items()}


def _theirs(name: str) -> str:
    name = re.sub(r"^stages\.(\d)\.", lambda m: f"layer{int(m[1]) + 1}.", name.replace(".branch.", "."))
    name = name.replace("shortcut.conv1", "downsample.0").replace("shortcut.norm1", "downsample.1")
    return re.sub(r"\bnorm(\d)", r"bn\1", re.sub(r"^stem\.", "", re.sub(r"^head\.", "fc.", name)))
