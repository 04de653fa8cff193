"""Fully connected plain and residual networks of any depth (He et al. 2015b; Balduzzi et al. 2017)."""

from torch import nn

from depthlab.errors import Mistake, one_of
from depthlab.network.place import Place, at, named
from depthlab.network.resnet import Network, Skip, Weight, added
from depthlab.network.unit import Activation, Norm, Order
from depthlab.network.weight import plain

LAYERS = {"single": 1, "basic": 2}


def mlp(
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
) -> Network:
    """A fully connected network `depth` weighted layers deep, `width` wide: an input layer, units of one layer
    (`block=single`, the usual) or two (`basic`), an output layer. Raises Mistake on a
    depth or block that does not fit, and on a `weight` but the plain one, as those are made for convolutions.
    """
    if (name := named(weight)) != "plain":
        raise Mistake(f"weight={name}: of convolutions, and network=mlp has none")
    block = block or "single"
    if block not in LAYERS:
        raise one_of("block", block, LAYERS)
    n, rest = divmod(depth - 2, LAYERS[block])
    if rest or n < 1:
        near = f"nearest {depth - 1} and {depth + 1}" if depth > 3 else f"nearest {LAYERS[block] + 2}"
        raise Mistake(
            f"depth={depth}: {block} blocks make {LAYERS[block] if block == 'basic' else ''}n+2 layers: {near}"
        )
    bias = isinstance(norm(width), nn.Identity)

    def linear(features: int) -> nn.Linear:
        return nn.Linear(features, width, bias=bias)

    channels, height, side = shape
    places = [Place(depth, n, i, since=i - 1) for i in range(n + 1)]
    stem = nn.Sequential(nn.Flatten(), unit.stem(linear(channels * height * side), norm, activation, places[0]))
    units = [
        unit.unit(
            [linear(width) for _ in range(LAYERS[block])],
            nn.Identity(),
            added(at(skip, place)(width)),
            norm,
            activation,
            place,
            first=place.unit == 1,
        )
        for place in places[1:]
    ]
    tail = unit.tail(width, norm, activation, places[0])
    return Network(stem, [nn.Sequential(*units)], tail, nn.Linear(width, classes), block)
