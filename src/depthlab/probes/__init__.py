"""Probes: what happens inside a network, `probe=[activations,gradients]`.

A probe is `(net, x, y, rate, *, ...) -> {name: number or list}`, run inside `untouched`: the network, a batch on its
device, the learning rate of the moment. Its scalars and lists are kept under these names.
"""

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
    "sensitivity",
    "shattered_gradients",
]
