"""Activations computed again in the backward pass instead of kept: memory for time (Chen et al. 2016, section 3)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, function: Callable[[Tensor], Tensor], *parts: Tensor) -> Tensor:
    """function(x), x the channels of all parts, of which the parts alone are kept for the backward pass; it calls the
    function, the module or a part of what it does, once more.

    The second call finds buffers (running statistics) and random streams as the first one did, and leaves no trace
    in them: the gradients are those of the usual way, of several parts to rounding, as sums have another order where
    a norm reads its input twice (renorm, momentum).
    """

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), as_before(module, [buffer.clone() for buffer in module.buffers()])

    def whole(*parts: Tensor) -> Tensor:
        return function(side_by_side(parts))

    return checkpoint(whole, *parts, use_reentrant=False, context_fn=contexts)


def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """The channels of all parts; of one, itself."""
    return parts[0] if len(parts) == 1 else torch.cat([*parts], 1)


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
