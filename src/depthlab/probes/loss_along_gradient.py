"""The ground in front of a gradient step: how far loss and gradient change on the way."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from depthlab.errors import Mistake
from depthlab.network.resnet import Network
from depthlab.probes.inside import Values

MULTIPLES = 0.5, 1.0, 2.0, 4.0
"""Of the rate, where no steps are given (Santurkar et al. 2018, Fig. 4: from 1/2 to 4)."""

Weights = dict[str, Tensor]
"""Parameters, or their gradients, by name."""


def loss_along_gradient(net: Network, x: Tensor, y: Tensor, rate: float, *, steps: list[float] | None) -> Values:
    """The batch's cross-entropy L and its gradient g at theta - s g(theta), for each s in `steps`, or in 1/2, 1, 2, 4
    times the rate (Santurkar et al. 2018, section 3.1 and Fig. 4). In training mode, as the step itself is.

    `losses`: L over the steps; `loss_low`, `loss_high`, `loss_range`: their extremes and difference (Fig. 4a).
    `gradient`: |g(theta)|; `gradient_change`, `gradient_change_mean`: the largest and the mean |g(theta - s g) - g|
    (Fig. 4b), `gradient_change_relative`: the largest over |g|. `smoothness`: the largest change over the distance
    moved, s |g|: the effective beta (Fig. 4c). All norms are Euclidean, over all parameters.
    Costs a pass forward and back a step and one more. Raises Mistake without a step, or on one that is not positive.
    """
    lengths = [multiple * rate for multiple in MULTIPLES] if steps is None else steps
    if not lengths or min(lengths) <= 0:
        raise Mistake(
            f"probe.loss_along_gradient.steps={steps}: positive numbers, or null where the rate is not zero"
        )
    net.train()
    theta = dict(net.named_parameters())
    _, g = loss_and_gradient(net, theta, x, y)
    norm = distance(g, {})
    losses, changes = [], []
    for s in lengths:
        loss, ahead = loss_and_gradient(net, stepped(theta, g, s), x, y)
        losses.append(loss)
        changes.append(distance(ahead, g))
    return {
        "losses": losses,
        "loss_low": min(losses),
        "loss_high": max(losses),
        "loss_range": max(losses) - min(losses),
        "gradient": norm,
        "gradient_change": max(changes),
        "gradient_change_mean": sum(changes) / len(changes),
        "gradient_change_relative": max(changes) / (norm or math.nan),
        "smoothness": max(change / (s * norm or math.nan) for s, change in zip(lengths, changes, strict=True)),
    }


def loss_and_gradient(
    net: Network, theta: Mapping[str, Tensor], x: Tensor, y: Tensor, of: Iterable[str] | None = None
) -> tuple[float, Weights]:
    """The cross-entropy of a batch at weights theta, and its gradient with respect to the parameters named `of`, or
    to all. Of theta alone: running statistics stay as they are, and dropout draws the same mask each time.
    """
    torch.manual_seed(0)
    leaves = {name: weight.detach().requires_grad_() for name, weight in theta.items()}
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    loss = functional.cross_entropy(functional_call(net, leaves | buffers, (x,)), y)
    names = list(leaves if of is None else of)
    return loss.item(), dict(zip(names, torch.autograd.grad(loss, [leaves[n] for n in names]), strict=True))


def stepped(theta: Mapping[str, Tensor], g: Weights, length: float) -> Weights:
    """theta - length g."""
    return {name: weight.detach() - length * g[name] for name, weight in theta.items()}


def distance(a: Weights, b: Weights) -> float:
    """|a - b| over all parameters; what is not in b is zero."""
    return torch.stack([(a[n] - b[n] if n in b else a[n]).double().norm() for n in a]).norm().item()
