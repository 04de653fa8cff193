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


def begins_at_zero(skip: nn.Module) -> bool:
    """Whether a skip multiplies its branch by a learned `alpha` that is zero, as ReZero's."""
    alpha = dict(skip.named_parameters()).get("alpha")
    return alpha is not None and not alpha.is_meta and not alpha.any()


def check_learns(unit: Any, option: str) -> None:
    """Raises Mistake where a branch of zeros stays zero: what ends it is flat there, as a ReLU is; or it stands
    beside other channels, behind which a ReLU is; or its skip multiplies it by zero.
    """
    end, at_zero = [*unit.branch.modules()][-1], torch.zeros(1, 2, 1, 1, device="cpu", requires_grad=True)
    if not isinstance(end, nn.Conv2d | nn.Linear) and not [*end.parameters()]:
        (slope,) = torch.autograd.grad(end(at_zero).sum(), at_zero)
        if not slope.any():
            raise Mistake(f"{option}: a branch that ends in a ReLU and begins at zero never learns; leave it out")
    if type(unit.skip).__name__ == "concat":
        raise Mistake(f"{option}: channels beside others (skip=concat) that begin at zero never learn; leave it out")
    if begins_at_zero(unit.skip):
        raise Mistake(f"{option}: the skip begins at zero, and so must not its branch, or none learns; leave it out")
