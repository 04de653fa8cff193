"""A deep network that computes what a trained shallower one does: its layers, and added ones that are the identity.

"The added layers are identity mapping, and the other layers are copied from the learned shallower model" (He et al.
2015, section 1): so a deeper network has no excuse for a higher training error.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from depthlab.errors import Mistake
from depthlab.network.resnet import Network
from depthlab.network.silence import begins_at_zero, check_learns, silence
from depthlab.network.unit import Unit

CLOSE = 1e-3
"""How far the two may lie apart, as a share of the largest output: rounding, in every added layer."""


def check(net: Network, shallow: Network, *, trains: bool = False) -> None:
    """Raises Mistake where `shallow`'s layers are not the first of each of `net`'s stages, and where the added ones,
    if the network `trains`, could not learn. Looks at no value.
    """
    pairs = [(net.stem, shallow.stem), (net.tail, shallow.tail), (net.head, shallow.head)]
    stages = list(zip(net.stages, shallow.stages, strict=False))
    pairs += [(mine[: len(theirs)], theirs) for mine, theirs in stages]  # pyrefly: ignore[bad-index, bad-argument-type]
    if len(net.stages) != len(shallow.stages) or any(_shapes(mine) != _shapes(theirs) for mine, theirs in pairs):
        raise Mistake("weights: its layers are not among this network's; only the depth may differ, and be smaller")
    for mine, theirs in stages:
        for unit in [*mine.children()][len([*theirs.children()]) :]:
            if trains and isinstance(unit, Unit) and unit.skip is not None:
                check_learns(unit, "weights")


@torch.no_grad()
def construct(net: Network, shallow: Network, x: Tensor) -> None:
    """Fills `net` such that in evaluation mode it computes what `shallow` does, on images x (N, C, H, W).

    An added plain layer has a Dirac kernel; its norm has the mean and the deviation that x gives each channel, as its
    statistics and as its shift and scale. An added residual branch ends in zeros. Raises Mistake where an added layer
    cannot be the identity, as with norms without statistics of their own: the outputs are compared.
    """
    check(net, shallow)
    modes = net.training, shallow.training
    net.eval(), shallow.eval()
    for mine, theirs in ((net.stem, shallow.stem), (net.tail, shallow.tail), (net.head, shallow.head)):
        mine.load_state_dict(theirs.state_dict())
    x = x.to(shallow.head.weight.dtype)
    between = shallow.stem(x)
    for mine, theirs in zip(net.stages, shallow.stages, strict=True):
        between = theirs(between)
        variance, mean = torch.var_mean(between, (0, *range(2, between.dim())), correction=0)
        given = dict(enumerate(theirs.children()))
        for place, unit in enumerate(mine.children()):
            if place in given:
                unit.load_state_dict(given[place].state_dict())
            elif isinstance(unit, Unit):
                _pass_on(unit, mean, variance)
    wanted, found = shallow(x), net(x)
    net.train(modes[0]), shallow.train(modes[1])
    if not (found - wanted).abs().max() <= CLOSE * wanted.abs().max():
        raise Mistake(
            "weights: here an added layer cannot be the identity, or a copied one changes with the depth; it works "
            "with skip=none or identity, norm=batch or none, plain weights and ReLU"
        )


def _pass_on(unit: Unit, mean: Tensor, variance: Tensor) -> None:
    """Makes a unit the identity for non-negative x whose channels have these means and variances."""
    if unit.skip is not None:
        if not begins_at_zero(unit.skip):
            silence(unit.last)
        return
    for layer in unit.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            (nn.init.dirac_ if layer.weight.dim() > 2 else nn.init.eye_)(layer.weight)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None:
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(variance)
            layer.weight.copy_((variance + layer.eps).sqrt())
            layer.bias.copy_(mean)


def _shapes(module: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in module.state_dict().values()]
