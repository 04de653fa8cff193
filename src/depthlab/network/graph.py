"""Fewer launches: on a GPU a small network takes less time to compute than to launch, operation by operation."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from depthlab.network.recompute import as_before
from depthlab.network.resnet import Network


def compiled(net: Network, backend: str = "inductor") -> None:
    """Compiles each unit of net in place, for the shapes that come; equal units share their code. Weights keep their
    names, results are equal to rounding.
    """
    import torch._inductor.config as inductor

    kinds = 4 * len(net.units)  # at most, in training and evaluation; torch's limit is 8
    torch.compiler.config.recompile_limit = max(64, kinds)
    inductor.fallback_random = True  # dropout draws as it does without
    for unit in net.units:
        unit.compile(backend=backend, dynamic=False)


def graphed(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """net as a function for training on images of one shape: on a GPU its first call captures the forward and the
    backward pass, leaving running statistics and random streams as they were; all calls replay them.

    net itself stays as it is, for evaluation and probes. On a CPU this is net.
    """
    passes, captured = nn.Sequential(net), False

    def forward(images: Tensor) -> Tensor:
        nonlocal captured
        if images.is_cuda and not captured:
            with as_before(net, [*net.buffers()]), torch.random.fork_rng([images.device]):
                torch.cuda.make_graphed_callables(passes, (images.clone(),))
            captured = True
        return passes(images)

    return forward
