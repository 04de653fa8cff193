"""Plain and residual convolutional networks of any depth (He et al. 2015, sections 3.3, 4.1 and 4.2)."""

import re
from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from depthlab.errors import Mistake, one_of
from depthlab.network.recompute import recomputed
from depthlab.network.unit import Activation, Norm, Order, Unit

Skip = Callable[[int], nn.Module | None]

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
    depth or a block that the family does not have.
    """
    block, counts = _stages(family, depth, block)
    kernels, expansion = BLOCKS[block]
    shortcut = shortcut or ("A" if family == "cifar" and block != "bottleneck" else "B")
    bias = isinstance(norm(width), nn.Identity)
    strided = kernels.index(max(kernels)) if stride_in == "3x3" else 0

    def conv(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
        made = _Strided if kernel == 1 and stride > 1 and channels < 8 else nn.Conv2d
        return made(channels, out, kernel, stride, kernel // 2, bias=bias)

    if family == "cifar":
        stem = unit.stem(conv(shape[0], width, 3), norm, activation)
    else:
        stem = unit.stem(conv(shape[0], width, 7, 2), norm, activation)
        stem.append(nn.MaxPool2d(3, 2, 1))

    stages, channels = [], width
    for s, count in enumerate(counts):
        units = []
        for i in range(count):
            inner, stride = width * 2**s, 2 if s > 0 and i == 0 else 1
            outs = [inner] * (len(kernels) - 1) + [inner * expansion]
            convs = [
                conv(c, o, k, stride if j == strided else 1)
                for j, (c, o, k) in enumerate(zip([channels, *outs], outs, kernels, strict=False))
            ]
            out = outs[-1]
            join, changes = skip(out), channels != out or stride > 1
            if join is not None and (shortcut == "C" or (shortcut == "B" and changes)):
                resize = unit.projection(conv(channels, out, 1, stride), norm)
            else:
                resize = ZeroPad(stride, out - channels) if changes else nn.Identity()
            units.append(unit.unit(convs, resize, join, norm, activation, first=s == i == 0))
            channels = out
        stages.append(nn.Sequential(*units))
    tail = unit.tail(channels, norm, activation).extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    return Network(stem, stages, tail, nn.Linear(channels, classes), block)


class Network(nn.Module):
    """stem -> stages of units -> tail -> head: images (N, C, H, W) -> logits (N, classes).

    `block` and `activation` are the names of its options; from the latter an init takes the gain. With `recompute`
    training keeps only what passes between units.
    """

    activation: str
    recompute: bool = False

    def __init__(
        self, stem: nn.Sequential, stages: Sequence[nn.Sequential], tail: nn.Sequential, head: nn.Linear, block: str
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
        if self.recompute and self.training:
            for unit in self.units:
                x = recomputed(unit, x)
        else:
            x = self.stages(x)
        return self.head(self.tail(x))


class _Strided(nn.Conv2d):
    """A strided 1x1 convolution that picks its pixels first: oneDNN 3.12 (in torch 2.14) writes past the weights'
    gradient where there are few channels, in channels_last, in one thread.
    """

    def forward(self, input: Tensor) -> Tensor:
        rows, columns = self.stride
        return functional.conv2d(input[:, :, ::rows, ::columns], self.weight, self.bias)


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
            raise Mistake(f"depth={depth}: {_nearest(depth, IMAGENET)} (allowed: {', '.join(map(str, IMAGENET))})")
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
        near = _nearest(depth, [per_n[block] * max(k, 1) + 2 for k in (n, n + 1)])
        other = [f"block={b} fits" for b, p in per_n.items() if depth - 2 >= p and (depth - 2) % p == 0]
        hint = f"; {' and '.join(other)}" if other else ""
        raise Mistake(f"depth={depth}: {block} blocks make {per_n[block]}n+2 layers: {near}{hint}")
    return block, (n, n, n)


def _nearest(depth: int, depths: Sequence[int] | dict) -> str:
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
