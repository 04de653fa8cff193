"""Probes: what happens inside a network, `probe=[activations,gradients]`.

A probe is `(net, x, y, rate, *, ...) -> {name: number or list}`, run inside `untouched`: the network, a batch on its
device, the learning rate of the moment. Its scalars and lists are kept under these names.
"""

from depthlab.probes.activations import activations
from depthlab.probes.gradient_correlation import gradient_correlation
from depthlab.probes.gradients import gradients
from depthlab.probes.lambda_product import lambda_product
from depthlab.probes.lesion import lesion
from depthlab.probes.paths import paths
from depthlab.probes.shattered_gradients import shattered_gradients

__all__ = ["activations", "gradient_correlation", "gradients", "lambda_product", "lesion", "paths", "shattered_gradients"]
