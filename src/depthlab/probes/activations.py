"""Signals going forward: how large they are after every unit and layer, and which channels are dead."""

import torch
from torch import Tensor

from depthlab.network.resnet import Network
from depthlab.probes.inside import Values, growth, layers, nonlinearities, recorded


@torch.no_grad()
def activations(net: Network, x: Tensor, y: Tensor, rate: float) -> Values:
    """Means and variances of the signal over images, channels and pixels, in one pass in training mode.

    `unit_variance`, `unit_mean`: of the first unit's input and of each unit's output; `variance_factor` and
    `variance_step`: the growth of the variance a unit, as a factor (geometric mean) and as a difference (mean), over
    the second half of the units: theory takes the signal to be symmetric, which behind a stem that ends in a ReLU it
    becomes only after some units.
    `deviation`, `mean`: of each layer's response (He et al. 2015, Fig. 7), `response`: the mean deviation. `dead`,
    `always_on`: for each activation the share of channels that are positive nowhere, and everywhere, in the batch;
    `dead_share`, `always_on_share`: their means.
    """
    net.train()
    units, responses = net.units, [response for *_, response in layers(net)]
    with (
        recorded(units[:1], inputs=True) as first,
        recorded(units) as outputs,
        recorded(responses) as answers,
        recorded(nonlinearities(net)) as after,
    ):
        net(x)
    signals = [*first, *outputs]
    variance = [signal.double().var(correction=0).item() for signal in signals]
    half = variance[len(units) // 2 :]
    channels = [activation.transpose(0, 1).flatten(1) for activation in after]
    dead = [(channel <= 0).all(1).float().mean().item() for channel in channels]
    always = [(channel > 0).all(1).float().mean().item() for channel in channels]
    deviation = [answer.double().std(correction=0).item() for answer in answers]
    return {
        "unit_variance": variance,
        "unit_mean": [signal.mean().item() for signal in signals],
        "variance_factor": growth(half, len(half) - 1),
        "variance_step": (half[-1] - half[0]) / (len(half) - 1),
        "deviation": deviation,
        "mean": [answer.mean().item() for answer in answers],
        "response": sum(deviation) / len(deviation),
        "dead": dead,
        "always_on": always,
        "dead_share": sum(dead) / max(len(dead), 1),
        "always_on_share": sum(always) / max(len(always), 1),
    }
