"""Densely connected networks of any depth (Huang et al. 2017, sections 3 and 4), and their plain twins."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from depthlab.errors import Mistake
from depthlab.network.place import Place, at, named
from depthlab.network.resnet import Network, Skip, Weight, nearest
from depthlab.network.skip import concat
from depthlab.network.unit import Activation, Norm, Order
from depthlab.network.weight import plain

# The convolutions of a unit: kernel sizes, and what each gives, in units of the growth (Huang et al. 2017, 3).
BLOCKS = {"single": ((3,), (1,)), "bottleneck": ((1, 3), (4, 1))}

# Huang et al. 2017, Table 1, whose DenseNet-264 has 265 layers; 161, of growth 48: its first version, 1608.06993v1.
IMAGENET = {121: (6, 12, 24, 16), 161: (6, 12, 36, 24), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}

UNITS = ("original", "relu_before_addition", "relu_only_preact", "preact")
"""The orders that put no norm behind the join."""


def densenet(
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
    growth: int,
    bottleneck: bool,
    compression: float,
) -> Network:
    """A network for images of `shape` (channels, height, width), `depth` weighted layers deep, as the paper counts.

    Each unit gives `growth` channels, k, and `skip=concat` puts them beside all that came before. Under `skip=none`
    the same layers stand in a chain, each with the k channels of the one before: the plain twin, of fewer parameters.
    family: `cifar`, 3 stages of n units; or `imagenet`, 4 (Table 1). bottleneck: a 1x1 convolution to 4k channels
    stands before each 3x3. Between stages a transition, a plain unit, keeps the share `compression`, theta, of the
    channels, at least one, in a 1x1 convolution, and halves the size. The stem gives `width` channels, but twice the
    growth where there are bottlenecks (section 3, implementation details). The paper's dropout, on data that are not
    augmented, is left out.

    Raises Mistake on a depth or block that the family does not have, on a growth or compression out of range, on
    another skip, and on a unit with a norm behind the join.
    """
    block, counts = _stages(family, depth, block, bottleneck)
    kernels, outs = BLOCKS[block]
    if not 1 <= growth <= 4096:
        raise Mistake(f"network.growth={growth}: from 1 to 4096 (nearest: {min(max(growth, 1), 4096)})")
    if not 0 < compression <= 1:
        raise Mistake(f"network.compression={compression:g}: above 0 and at most 1 (nearest: 1)")
    if not isinstance(skip(growth), concat | None):
        raise Mistake(f"skip={named(skip)}: network=densenet joins by skip=concat; skip=none is its plain twin")
    if "norm" in unit.after.split():
        raise Mistake(f"unit: puts a norm behind the join; with network=densenet it is one of {', '.join(UNITS)}")
    signals = shape[1] == 1 < shape[2]
    channels = 2 * growth if bottleneck else width
    bias = isinstance(norm(channels), nn.Identity)
    place = Place(depth, sum(counts) + len(counts) - 1, unit=0)

    def conv(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
        across = 1 if signals else kernel  # its other rows would see zeros alone, and count in an init's fan-in
        return at(weight, place)(channels, out, (across, kernel), stride, bias)

    if family == "cifar":
        stem = unit.stem(conv(shape[0], channels, 3), norm, activation, place, before=False)
    else:
        stem = unit.stem(conv(shape[0], channels, 7, 2), norm, activation, place).append(nn.MaxPool2d(3, 2, 1))

    stages = []
    for s, count in enumerate(counts):
        units = []
        if s:
            place = replace(place, unit=place.unit + 1, changes=True)
            out = max(int(compression * channels), 1)
            parts = [conv(channels, out, 1)], nn.Identity(), None
            units.append(unit.unit(*parts, norm, activation, place, first=False))
            units[0].after.append(Halved())
            channels, place = out, replace(place, since=0, changes=False)
        for _ in range(count):
            place = replace(place, unit=place.unit + 1)
            given = [growth * times for times in outs]
            convs = [conv(c, o, k) for c, o, k in zip([channels, *given], given, kernels, strict=False)]
            join = at(skip, place)(growth)
            units.append(unit.unit(convs, nn.Identity(), join, norm, activation, place, first=False))
            channels, place = growth + (0 if join is None else channels), replace(place, since=place.since + 1)
        stages.append(nn.Sequential(*units))
    tail = unit.tail(channels, norm, activation, place).extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    return Network(stem, stages, tail, nn.Linear(channels, classes), block)


class Halved(nn.Module):
    """The mean of each 2x2 pixels; what is a single pixel high or wide stays so."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, [min(2, side) for side in x.shape[2:]])


def _stages(family: str, depth: int, block: str | None, bottleneck: bool) -> tuple[str, Sequence[int]]:
    """The block and the number of units of each stage."""
    usual = "bottleneck" if bottleneck else "single"
    if block not in (None, usual):
        raise Mistake(f"block={block}: with network.bottleneck={str(bottleneck).lower()} it is {usual}; leave it out")
    if family == "imagenet":
        if depth not in IMAGENET:
            raise Mistake(f"depth={depth}: {nearest(depth, IMAGENET)} (allowed: {', '.join(map(str, IMAGENET))})")
        if not bottleneck:
            raise Mistake("network.bottleneck=false: the ImageNet networks are made of bottlenecks (nearest: true)")
        return usual, IMAGENET[depth]
    layers = 3 * len(BLOCKS[usual][0])
    n, rest = divmod(depth - 4, layers)
    if rest or n < 1:
        near = nearest(depth, [layers * max(k, 1) + 4 for k in (n, n + 1)])
        raise Mistake(f"depth={depth}: dense {usual} blocks make {layers}n+4 layers: {near}")
    return usual, (n, n, n)


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of one of torchvision's densenet121, 161, 169, 201 under our names.

    conv0, norm0 -> stem.conv1, norm1; denseblock1.denselayer1 -> stages.0.0, norm1 -> before.norm1, the rest ->
    branch; transition1.norm, conv -> stages.1.0.before.norm1, branch.conv1, before the layers of denseblock2; norm5
    -> tail.norm; classifier -> head. Published files write norm1 as norm.1. The twin is `network=densenet_imagenet`.
    """
    return {_ours(name): tensor for name, tensor in state.items()}


def _ours(name: str) -> str:
    name = re.sub(r"\b(norm|conv)\.(?=\d\.)", r"\1", name.removeprefix("features."))
    name = re.sub(r"^denseblock(\d)\.denselayer(\d+)", _layer, name)
    name = re.sub(r"^transition(\d)\.(norm|conv)", r"stages.\1.0.\g<2>1", name)
    name = re.sub(r"^(stages\.\d\.\d+)\.(?=norm1)", r"\1.before.", name)
    name = re.sub(r"^(stages\.\d\.\d+)\.(?=norm2|conv)", r"\1.branch.", name)
    name = re.sub(r"^(norm|conv)0", r"stem.\g<1>1", re.sub(r"^norm5", "tail.norm", name))
    return re.sub(r"^classifier\.", "head.", name)


def _layer(found: re.Match[str]) -> str:
    stage = int(found[1]) - 1
    return f"stages.{stage}.{int(found[2]) - (stage == 0)}"  # a transition is unit 0 of the later stages


def to_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_torchvision`: our names as torchvision's."""
    return {_theirs(name): tensor for name, tensor in state.items()}


def _theirs(name: str) -> str:
    if name.startswith("head."):
        return f"classifier.{name.removeprefix('head.')}"
    name = re.sub(r"^stem\.(norm|conv)1", r"\g<1>0", re.sub(r"^tail\.norm", "norm5", name))
    name = re.sub(r"\.(before|branch)\.", ".", name)
    name = re.sub(r"^stages\.([1-9])\.0\.(norm|conv)1", r"transition\1.\2", name)
    return "features." + re.sub(
        r"^stages\.(\d)\.(\d+)", lambda m: f"denseblock{int(m[1]) + 1}.denselayer{int(m[2]) + (m[1] == '0')}", name
    )
