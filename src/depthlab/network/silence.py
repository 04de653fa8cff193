"""A layer that gives zeros, and can learn to give something else."""

from typing import Any

import torch
from torch import nn

from depthlab.errors import Mistake


@torch.no_grad()
def silence(layer: nn.Module) -> None:
    """Fills a layer such that it gives zeros: with zeros, but where parameters multiply its weight, as a gain does.
    These are zero then, and the weight stays, as of two factors that are both zero neither has a gradient.
    """
    factors = {name for name, _ in layer.named_parameters()} - {"weight", "bias"}
    for name, parameter in layer.named_parameters():
        if not (factors and name == "weight"):
            parameter.zero_()


def check_learns(unit: Any, option: str) -> None:
    """Raises Mistake where a branch that begins at zero stays there: a ReLU, whose slope at zero is zero, ends it, or
    stands behind channels that it fills by concatenation.
    """
    if isinstance([*unit.branch.modules()][-1], nn.ReLU):
        raise Mistake(f"{option}: a branch that ends in a ReLU and begins at zero never learns; leave it out")
    if type(unit.skip).__name__ == "concat":
        raise Mistake(f"{option}: channels beside others (skip=concat) that begin at zero never learn; leave it out")
