"""Probes: what happens inside a network, `probe=[activations,gradients]`.

A probe is `(net, x, y, rate, *, ...) -> {name: number or list}`, run inside `untouched`: the network, a batch on its
device, the learning rate of the moment. Its scalars and lists are kept under these names.
"""

from depthlab.probes.activations import activations
from depthlab.probes.gradients import gradients

__all__ = ["activations", "gradients"]
