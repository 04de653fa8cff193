"""Batch norms as fixed maps, so that a network is a function of one image and has a gradient at each."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def constant_statistics(net: nn.Module) -> Iterator[None]:
    """Inside, every batch norm takes the mean and the variance of the batch that it sees, as in training, but as
    constants: no image's output depends on another image, and dropout is at its mean. The modes and the running
    statistics are changed, which `untouched` puts back.
    """
    net.eval()
    hooks = [m.register_forward_pre_hook(_take) for m in net.modules() if isinstance(m, _BatchNorm)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _take(norm: _BatchNorm, given: tuple[Tensor]) -> None:
    """The batch's statistics as the running ones, with which a batch norm evaluates."""
    (x,) = given
    var, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
    norm.get_buffer("running_mean").copy_(mean)
    norm.get_buffer("running_var").copy_(var)
