"""Probes: what happens inside a network, `probe=[activations,gradients]`.

A probe is `(net, x, y, rate, *, ...) -> {name: number or list}`, run inside `untouched`: the network, a batch on its
device, the learning rate of the moment. Its scalars and lists are kept under these names.
"""

from depthlab.errors import Mistake
from depthlab.probes.activations import activations
from depthlab.probes.covariate_shift import covariate_shift
from depthlab.probes.gradient_correlation import gradient_correlation
from depthlab.probes.gradient_precision import gradient_precision
from depthlab.probes.gradients import gradients
from depthlab.probes.lambda_product import lambda_product
from depthlab.probes.lesion import lesion
from depthlab.probes.loss_along_gradient import loss_along_gradient
from depthlab.probes.loss_surface import loss_surface
from depthlab.probes.norm_effects import norm_effects
from depthlab.probes.paths import paths
from depthlab.probes.predictions import predictions
from depthlab.probes.sensitivity import sensitivity
from depthlab.probes.shattered_gradients import shattered_gradients

__all__ = [
    "activations",
    "covariate_shift",
    "gradient_correlation",
    "gradient_precision",
    "gradients",
    "lambda_product",
    "lesion",
    "loss_along_gradient",
    "loss_surface",
    "norm_effects",
    "paths",
    "predictions",
    "sensitivity",
    "shattered_gradients",
]

CHAINS = {"activations", "gradient_correlation", "gradients", "lambda_product", "lesion", "paths"}
CHAINS |= {"shattered_gradients"}
"""Those that ask what becomes of a signal from unit to unit."""
PIXELS = {"predictions"}
"""Those that show labels of pixels."""


def check(name: str, labels: str) -> None:
    """Raises Mistake on a probe that does not make sense for a network that labels images, or pixels."""
    unfit = CHAINS if labels == "pixels" else PIXELS
    if name in unfit:
        why = "of a chain of units that labels images" if name in CHAINS else "of labels of pixels"
        fit = ", ".join(probe for probe in __all__ if probe not in unfit)
        raise Mistake(f"probe={name}: {why}, and this network labels {labels} (allowed: {fit})")
