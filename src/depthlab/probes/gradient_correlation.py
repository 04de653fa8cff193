"""How alike the gradients at two images are, unit by unit (Balduzzi et al. 2017, section 3, theorems 1 to 3)."""

import math

import torch
from torch import Tensor

from depthlab.errors import Mistake
from depthlab.network.resnet import Network
from depthlab.probes.constant import constant_statistics
from depthlab.probes.inside import Values, growth, nonlinearities, recorded


def gradient_correlation(net: Network, x: Tensor, y: Tensor, rate: float) -> Values:
    """The first logit's gradient at each unit's input and at the last one's output, compared between the images of
    every pair, in one pass forward and back. Theory takes an average over random weights; here it is one over pairs
    of images and the signal's entries.

    `variance`: mean square of an image's gradient, as a multiple of that at the last unit's output; `covariance`:
    mean product of two images' gradients, as a multiple of the same; `correlation`: their ratio. `decay`: the first
    correlation over the last; `decay_factor`: its geometric mean a unit. `coactive`: after each activation, the share
    of entries that are positive for both images of a pair; `coactive_share`: their mean. Where it is 1/4, as theory
    takes it, a ReLU halves the correlation: 1/2^L in a plain network of L units, (3/4)^L with shortcuts, about
    1/(beta sqrt(L)) with shortcuts, batch norm, and branches weighted by beta. Batch norm's statistics are the
    batch's, as constants. Raises Mistake on fewer than two images.
    """
    if len(x) < 2:
        raise Mistake(f"probe.gradient_correlation.images={len(x)}: at least 2, of which pairs are made")
    with (
        constant_statistics(net),
        recorded(net.units, inputs=True) as inputs,
        recorded(net.units[-1:]) as outputs,
        recorded(nonlinearities(net)) as active,
    ):
        logits = net(x)
    found = [_moments(gradient) for gradient in torch.autograd.grad(logits[:, 0].sum(), [*inputs, *outputs])]
    last = found[-1][0]
    correlation = [pair / one if one else math.nan for one, pair in found]
    coactive = [_moments((signal > 0).float())[1] for signal in active]
    return {
        "variance": [one / last if last else math.nan for one, _ in found],
        "covariance": [pair / last if last else math.nan for _, pair in found],
        "correlation": correlation,
        "decay": correlation[0] / correlation[-1] if correlation[-1] else math.nan,
        "decay_factor": growth(correlation[::-1], len(net.units)),
        "coactive": coactive,
        "coactive_share": sum(coactive) / max(len(coactive), 1),
    }


def _moments(rows: Tensor) -> tuple[float, float]:
    """Of n rows, one an image: the mean over rows of their mean square, and over pairs of rows of their mean product,
    without forming the pairs: |sum of rows|^2 = squares + products.
    """
    rows = rows.flatten(1).double()
    (n, entries), squares = rows.shape, rows.square().sum().item()
    products = rows.sum(0).square().sum().item() - squares
    return squares / n / entries, products / (n * (n - 1)) / entries
