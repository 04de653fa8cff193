"""Signals going backward: how large the loss's gradient is at every unit's input and every layer's weights."""

import torch
from torch import Tensor
from torch.nn import functional

from depthlab.network.resnet import Network
from depthlab.probes.inside import Values, growth, layers, recorded


def gradients(net: Network, x: Tensor, y: Tensor, rate: float) -> Values:
    """Euclidean norms of the cross-entropy's gradient, in one pass in training mode.

    `unit`: at each unit's input and at the last one's output; `layer_factor`: its growth a layer on the way back
    (geometric mean over the branches' layers). `weights`: at the weights of each layer; `weights_factor`: the largest
    of them over the smallest. He et al. 2015, section 4.1: healthy norms in plain networks with batch norm.
    """
    net.train()
    units, weights = net.units, [layer.get_parameter("weight") for _, layer, _ in layers(net)]
    with recorded(units, inputs=True) as inputs, recorded(units[-1:]) as outputs:
        loss = functional.cross_entropy(net(x), y)
    at = torch.autograd.grad(loss, [*inputs, *outputs, *weights])
    norms = [gradient.norm().item() for gradient in at]
    unit, weight = norms[: len(units) + 1], norms[len(units) + 1 :]
    depth = len(weights) - 1  # without the stem's
    return {
        "unit": unit,
        "layer_factor": growth(unit[::-1], depth),
        "weights": weight,
        "weights_factor": max(weight) / min(weight) if min(weight) > 0 else float("inf"),
    }
