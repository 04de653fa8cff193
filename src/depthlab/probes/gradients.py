"""Signals going backward: how large the loss's gradient is at every unit's input and every layer's weights."""

import math
import statistics

import torch
from torch import Tensor, nn
from torch.nn import functional

from depthlab.errors import Mistake
from depthlab.network.resnet import Network
from depthlab.probes.inside import Values, growth, layers, recorded

CHUNKS = 4
"""Batches of each size, at most, over which a growth is averaged."""


def gradients(net: Network, x: Tensor, y: Tensor, rate: float, *, sizes: list[int]) -> Values:
    """Euclidean norms of the cross-entropy's gradient, in one pass in training mode.

    `unit`: at each unit's input, in a dense network all the channels that it sees, and at the last one's output;
    `layer_factor`: its growth a layer on the way back (geometric mean over the branches' layers). `weights`: at the
    weights of each layer; `weights_factor`: the largest of them over the smallest. He et al. 2015, section 4.1:
    healthy norms in plain networks with batch norm. `layer_factor_8`: the growth in batches of 8, geometric mean over
    at most 4 of them; so for each of the `sizes` (Yang et al. 2019, equation 25). Raises Mistake on a size that is
    not from 2 to the number of images.
    """
    net.train()
    parameters = [layer.get_parameter("weight") for _, layer, _ in layers(net)]
    norms = _norms(net, x, y, parameters)
    unit, weight = norms[: -len(parameters)], norms[-len(parameters) :]
    depth = len(weight) - 1  # without the stem's
    values: Values = {
        "unit": unit,
        "layer_factor": growth(unit[::-1], depth),
        "weights": weight,
        "weights_factor": max(weight) / min(weight) if min(weight) > 0 else math.inf,
    }
    for size in sizes:
        if not 2 <= size <= len(x):
            raise Mistake(f"probe.gradients.sizes={sizes}: each from 2 to {len(x)}, the images")
        chunks = zip(x.split(size)[: min(CHUNKS, len(x) // size)], y.split(size), strict=False)
        factors = [growth(_norms(net, *chunk, [])[::-1], depth) for chunk in chunks]
        values[f"layer_factor_{size}"] = statistics.geometric_mean(factors)
    return values


def _norms(net: Network, x: Tensor, y: Tensor, weights: list[nn.Parameter]) -> list[float]:
    """At each unit's input, at the last one's output, and at the weights."""
    with recorded(net.units, inputs=True) as inputs, recorded(net.units[-1:]) as outputs:
        loss = functional.cross_entropy(net(x), y)
    found = torch.autograd.grad(loss, [*inputs, *outputs, *weights])
    return [gradient.double().norm().item() for gradient in found]
