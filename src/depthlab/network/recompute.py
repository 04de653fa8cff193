"""Activations computed again in the backward pass instead of kept: memory for time (Chen et al. 2016, section 3)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, x: Tensor) -> Tensor:
    """module(x), of which only x is kept for the backward pass, which calls the module once more.

    The second call finds buffers (running statistics) and random streams as the first one did, and leaves no trace
    in them: the gradients are those of the usual way.
    """

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), as_before(module, [buffer.clone() for buffer in module.buffers()])

    return checkpoint(module, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def as_before(module: nn.Module, before: list[Tensor]) -> Iterator[None]:
    """Inside, the module's buffers begin with the values `before`; after it they are what they were at its start."""
    now = [buffer.clone() for buffer in module.buffers()]
    _fill(module, before)
    try:
        yield
    finally:
        _fill(module, now)


@torch.no_grad()
def _fill(module: nn.Module, values: list[Tensor]) -> None:
    for buffer, value in zip(module.buffers(), values, strict=True):
        buffer.copy_(value)
