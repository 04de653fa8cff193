"""A layer that gives zeros, and can learn to give something else."""

import torch
from torch import nn


@torch.no_grad()
def silence(layer: nn.Module) -> None:
    """Fills a layer such that it gives zeros: with zeros, but where parameters multiply its weight, as a gain does.
    These are zero then, and the weight stays, as of two factors that are both zero neither has a gradient.
    """
    factors = {name for name, _ in layer.named_parameters()} - {"weight", "bias"}
    for name, parameter in layer.named_parameters():
        if not (factors and name == "weight"):
            parameter.zero_()
