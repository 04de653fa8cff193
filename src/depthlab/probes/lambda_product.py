"""What of the loss's gradient the shortcuts carry back: the product of lambdas (He et al. 2016, equations 3 to 8)."""

from itertools import accumulate
from operator import mul

import torch
from torch import Tensor, nn
from torch.nn import functional

from depthlab.errors import Mistake
from depthlab.network.resnet import Network
from depthlab.probes.inside import Values, growth, recorded


def lambda_product(net: Network, x: Tensor, y: Tensor, rate: float) -> Values:
    """The cross-entropy's gradient on its way back from the last unit's output, in two passes in training mode.

    A list holds a value for the input of each unit and one for the last unit's output, which is 1. `gradient`: the
    gradient's norm, as a multiple of that at the last output. `shortcut`: the same through the shortcuts alone, the
    branches held constant: |dL/dh| / |dL/dy| multiplied over the units that follow, where h is what enters a unit's
    skip and y the unit's output. What is lost between x and h where the shape changes is thus left out, and the value
    is exactly the product of lambdas (equation 8) if nothing follows the additions. `product`: lambda multiplied over
    the units that follow; a skip's lambda is |skip(h, 0)| / |h|, exact for a scalar, a mean for gates, 1x1
    convolutions and dropout, 0 without shortcut. `first_gradient`, `first_shortcut`, `first_product`: at the first
    unit's input; `shortcut_factor`: the second of these as a geometric mean a unit. Raises Mistake on a network in
    which some units have a skip and others none, as a dense one.
    """
    if len({unit.skip is None for unit in net.units}) > 1:
        raise Mistake("probe=lambda_product: no shortcut leads through a dense network from end to end")
    net.train()
    with recorded(net.units, inputs=True) as inputs, recorded(net.units[-1:]) as outputs:
        loss = functional.cross_entropy(net(x), y)
    norms = _norms(loss, [*inputs, *outputs])
    gradient = [(norm / norms[-1]).item() for norm in norms]
    shortcut, product = (_backwards(factors) for factors in _factors(net, x, y))
    return {
        "gradient": gradient,
        "shortcut": shortcut,
        "product": product,
        "first_gradient": gradient[0],
        "first_shortcut": shortcut[0],
        "first_product": product[0],
        "shortcut_factor": growth(shortcut[::-1], len(net.units)),
    }


def _factors(net: Network, x: Tensor, y: Tensor) -> tuple[list[float], list[float]]:
    """Of each unit, in a pass that holds the branches constant: |dL/dh| / |dL/dy|, and its skip's lambda."""
    joins = [(u.shortcut, u.skip) for u in net.units if u.shortcut is not None and u.skip is not None]
    if not joins:  # a plain network
        return [0.0] * len(net.units), [0.0] * len(net.units)
    hooks = [unit.branch.register_forward_hook(_constant) for unit in net.units]
    try:
        with recorded(shortcut for shortcut, _ in joins) as entering, recorded(net.units) as outputs:
            loss = functional.cross_entropy(net(x), y)
    finally:
        for hook in hooks:
            hook.remove()
    carried = zip(_norms(loss, entering), _norms(loss, outputs), strict=True)
    with torch.no_grad():
        scaled = [skip(h, torch.zeros_like(h)) for (_, skip), h in zip(joins, entering, strict=True)]
    lambdas = [(y.double().norm() / h.double().norm()).item() for y, h in zip(scaled, entering, strict=True)]
    return [(h / y).item() for h, y in carried], lambdas


def _constant(branch: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.detach()


def _norms(loss: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    return [gradient.double().norm() for gradient in torch.autograd.grad(loss, tensors, retain_graph=True)]


def _backwards(factors: list[float]) -> list[float]:
    """The product of all factors, of all but the first, ..., 1."""
    return [*accumulate(reversed(factors), mul, initial=1.0)][::-1]
