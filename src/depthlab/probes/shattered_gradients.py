"""How fast the gradient changes between neighbouring inputs (Balduzzi et al. 2017, section 2, Fig. 1 and 2)."""

import torch
from torch import Tensor

from depthlab.errors import Mistake
from depthlab.network.resnet import Network
from depthlab.probes.constant import constant_statistics
from depthlab.probes.inside import Values

SHOWN = (1, 5, 15)
"""Lags whose autocorrelation is also a number of its own."""


def shattered_gradients(net: Network, x: Tensor, y: Tensor, rate: float, *, points: int, lags: int) -> Values:
    """The first logit's derivative at evenly spaced points of the straight line from the first image to the last, in
    one pass forward and back; on `data=line` these are the points of the paper's toy.

    `gradient`: the derivative along the line at each of the `points`, in logits by the line's length.
    `autocorrelation`: of that series at lags from 0 to `lags` points; `lag_1`, `lag_5`, `lag_15`: some of them. White
    noise has none, as a random walk (brown noise) has about 0.9745^lag - 0.0031 lag in 256 points. Batch norm takes
    its statistics from the line's points as constants, so that this is the derivative of a function of one input.
    Raises Mistake unless 15 <= lags < points.
    """
    if not max(SHOWN) <= lags < points:
        raise Mistake(f"probe.shattered_gradients.lags={lags}: at least {max(SHOWN)}, and under points={points}")
    place = torch.linspace(0, 1, points, device=x.device).view(-1, 1, 1, 1).requires_grad_()
    with constant_statistics(net):
        logits = net(x[0] + place * (x[-1] - x[0]))
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), place)
    found = autocorrelation(gradient.flatten(), lags)
    return {
        "gradient": gradient.flatten().tolist(),
        "autocorrelation": found,
        **{f"lag_{lag}": found[lag] for lag in SHOWN},
    }


def autocorrelation(series: Tensor, lags: int) -> list[float]:
    """r_k = sum over t of z_t z_(t+k) / sum over t of z_t^2, z = series - its mean, k from 0 to `lags`: the usual,
    biased estimator, which divides both sums by the number of points.
    """
    z = series.double() - series.double().mean()
    sums = torch.stack([z[: len(z) - lag] @ z[lag:] for lag in range(lags + 1)])
    return (sums / sums[0]).tolist()
