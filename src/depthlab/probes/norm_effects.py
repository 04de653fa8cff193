"""What a norm does besides normalising: the scale of weights no longer matters, batches bring noise, rates shrink."""

import math
import statistics

import torch
from torch import Tensor, nn

from depthlab.errors import Mistake
from depthlab.network.resnet import Network
from depthlab.probes.covariate_shift import moments, relative
from depthlab.probes.inside import Values, layers, recorded
from depthlab.probes.loss_along_gradient import loss_and_gradient


def norm_effects(
    net: Network, x: Tensor, y: Tensor, rate: float, *, factor: float, sizes: list[int], draws: int, seed: int
) -> Values:
    """Three effects at the layers that stand before a norm (or before its place, where there is none), in training
    mode.

    The weights of one layer times `factor`, one layer at a time (Ioffe & Szegedy 2015, section 3.3):
    `output_changes`, the logits' relative change in Euclidean norm, 0 in theory, and `gradient_factors`, the
    gradient's norm at the scaled weights relative to that before, 1 / factor in theory. `output_change`: the largest;
    `gradient_factor`: the geometric mean.
    Means of channels over `draws` random batches, drawn with replacement: `noise`, for each of the `sizes` the
    standard deviation of these means relative to that of the signal over images and pixels, both pooled over a
    layer's channels; the root mean square over layers. `noise_exponent`: the slope of its logarithm over that of the
    size: -1/2 where the images of a batch are independent; nan with a single size.
    `effective_rates`: rate / |w|^2, the rate at which a layer turns whose weights' scale does not matter (van
    Laarhoven 2017; Hoffer et al. 2018); `effective_rate`: the mean.
    Costs a pass forward and back a layer and one more, and draws x sum(sizes) images forward. Raises Mistake on a
    factor that is not positive, fewer than 2 draws, no size or one below 2, and where no layer stands before a norm.
    """
    before_norm = [layer for _, layer, response in layers(net) if response is not layer]
    if not before_norm:
        raise Mistake("probe=norm_effects: no layer of this network stands directly before a norm")
    if factor <= 0 or draws < 2 or min(sizes, default=0) < 2:
        given = f"factor={factor} draws={draws} sizes={sizes}"
        raise Mistake(f"probe.norm_effects: {given}: a positive factor, at least 2 draws, sizes of at least 2")
    net.train()
    changes, factors = rescaled(net, before_norm, x, y, factor)
    noise = batch_noise(net, before_norm, x, sizes, draws, torch.Generator().manual_seed(seed))
    rates = [rate / layer.get_parameter("weight").double().square().sum().item() for layer in before_norm]
    return {
        "output_changes": changes,
        "output_change": max(changes),
        "gradient_factors": factors,
        "gradient_factor": math.exp(statistics.fmean(map(log, factors))),
        "noise": noise,
        "noise_exponent": slope([log(size) for size in sizes], [log(value) for value in noise]),
        "effective_rates": rates,
        "effective_rate": statistics.fmean(rates),
    }


def rescaled(
    net: Network, modules: list[nn.Module], x: Tensor, y: Tensor, factor: float
) -> tuple[list[float], list[float]]:
    """For each module, its weights times `factor`: the relative change of the logits, the factor of the gradient."""
    theta = dict(net.named_parameters())
    name_of = {weight: name for name, weight in theta.items()}
    changes, factors = [], []
    with recorded([net]) as output:
        _, before = loss_and_gradient(net, theta, x, y)
        logits = output[0].detach()
        for name in (name_of[module.get_parameter("weight")] for module in modules):
            _, after = loss_and_gradient(net, theta | {name: factor * theta[name]}, x, y, of=[name])
            changes.append(relative(logits, output[0].detach()))
            factors.append((after[name].double().norm() / before[name].double().norm()).item())
    return changes, factors


@torch.no_grad()
def batch_noise(
    net: Network, modules: list[nn.Module], x: Tensor, sizes: list[int], draws: int, draw: torch.Generator
) -> list[float]:
    """For each size, how much the channels' means differ from batch to batch, relative to the signal's deviation."""
    noise = []
    with recorded(modules) as signals:
        net(x)
        variances = [moments(signal)[1].sum() for signal in signals]
        for size in sizes:
            means = []
            for _ in range(draws):
                net(x[torch.randint(len(x), (size,), generator=draw).to(x.device)])
                means.append([moments(signal)[0] for signal in signals])
            spread = [torch.stack(layer).var(dim=0).sum() for layer in zip(*means, strict=True)]
            ratios = [s / v for s, v in zip(spread, variances, strict=True)]
            noise.append(torch.stack(ratios).mean().sqrt().item())
    return noise


def log(value: float) -> float:
    """Its natural logarithm, nan where there is none."""
    return math.log(value) if value > 0 else math.nan


def slope(x: list[float], y: list[float]) -> float:
    """Of the straight line through the points, by least squares; nan for points above each other."""
    return statistics.linear_regression(x, y).slope if len({*x}) > 1 else math.nan
