"""Internal covariate shift: how far a step moves what each layer sees, and what each layer should do about it."""

import statistics

import torch
from torch import Tensor

from depthlab.errors import Mistake
from depthlab.network.resnet import Network
from depthlab.probes.inside import Values, layers, recorded
from depthlab.probes.loss_along_gradient import loss_and_gradient, stepped


def covariate_shift(net: Network, x: Tensor, y: Tensor, rate: float, *, step: float | None) -> Values:
    """What one step of gradient descent on the batch, `step` long (None: the rate), does to every layer but the
    first, in training mode.

    `distances`, `cosines`: between G, the gradient of the batch's cross-entropy at the layer's weights, and G', the
    same after all parameters before the layer took the step: |G - G'|, 0 without a shift, and the angle's cosine,
    then 1 (Santurkar et al. 2018, definition 2.1). `mean_shifts`, `variance_shifts`: relative change, |m' - m| / |m|,
    of the vector of the means, and of the variances, of the layer's input channels over images and pixels (Ioffe &
    Szegedy 2015, section 2). `distance`, `cosine`, `mean_shift`, `variance_shift`: their means over layers;
    `relative_distance`: that of |G - G'| / |G|.
    Costs a pass forward and back a layer and two more. Raises Mistake on a step that is not positive.
    """
    length = rate if step is None else step
    if length <= 0:
        raise Mistake(f"probe.covariate_shift.step={step}: a positive number, or null where the rate is not zero")
    net.train()
    theta = dict(net.named_parameters())
    names, name_of = list(theta), {weight: name for name, weight in theta.items()}
    modules = [layer for _, layer, _ in layers(net)][1:]
    own = [name_of[layer.get_parameter("weight")] for layer in modules]

    with recorded(modules, inputs=True) as inputs:
        _, g = loss_and_gradient(net, theta, x, y)
        after = stepped(theta, g, length)
        before_step = [moments(signal) for signal in inputs]
        loss_and_gradient(net, after, x, y, of=own[:1])
        after_step = [moments(signal) for signal in inputs]
    pairs = list(zip(before_step, after_step, strict=True))
    means, variances = ([relative(a[i], b[i]) for a, b in pairs] for i in (0, 1))

    distances, relative_distances, cosines = [], [], []
    for name in own:
        earlier = {n: after[n] for n in names[: names.index(name)]}
        _, ahead = loss_and_gradient(net, theta | earlier, x, y, of=[name])
        old, new = g[name].double(), ahead[name].double()
        distances.append((new - old).norm().item())
        relative_distances.append(relative(old, new))
        cosines.append(((old * new).sum() / (old.norm() * new.norm())).item())
    return {
        "distances": distances,
        "cosines": cosines,
        "mean_shifts": means,
        "variance_shifts": variances,
        "distance": statistics.fmean(distances),
        "relative_distance": statistics.fmean(relative_distances),
        "cosine": statistics.fmean(cosines),
        "mean_shift": statistics.fmean(means),
        "variance_shift": statistics.fmean(variances),
    }


def moments(signal: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel over images and pixels: (N, C, ...) -> (C,), (C,)."""
    variance, mean = torch.var_mean(signal.detach().double().transpose(0, 1).flatten(1), dim=1, correction=0)
    return mean, variance


def relative(before: Tensor, after: Tensor) -> float:
    """|after - before| / |before|."""
    before, after = before.double(), after.double()
    return ((after - before).norm() / before.norm()).item()
