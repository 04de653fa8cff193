"""How long the paths through a residual network are, and which of them carry its gradient (Veit et al. 2016, 5)."""

import math
import statistics
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, combinations

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from depthlab.errors import Mistake
from depthlab.network.resnet import Network
from depthlab.network.unit import Unit
from depthlab.probes.inside import Values, growth, recorded

HELD = 0.95
"""Share of the gradient that the effective paths hold."""


def paths(net: Network, x: Tensor, y: Tensor, rate: float, *, samples: int, seed: int) -> Values:
    """Paths through n units, of which each goes through a unit's branch or around it through the shortcut: 2^n, and
    as many branches as it passes, so long it is. Lists hold a value for each length from 0 to n.

    `count_share`: of all paths, C(n, k) / 2^n. `gradient`: mean Euclidean norm of the cross-entropy's gradient that
    comes along one path to the first unit's input, in training mode, over `samples` paths drawn from `seed`, or over
    all where they are no more. `gradient_share`: C(n, k) gradient[k], as a share of the sum over k. `mean_length`: the
    length's mean under these shares; `relative_length`: as a share of n, 0.5 if all paths carried alike.
    `effective_from`, `effective_to`: the lengths between which lies the gradient without a fortieth at either end;
    `effective_share`: what share of all paths they are. `gradient_factor`: the growth of a path's gradient with each
    branch (geometric mean). The mean length and what follows is left out where no gradient arrives.

    A plain network is one path, of length n. Costs one pass forward and n samples back. Raises Mistake if `samples` is
    not positive.
    """
    if samples < 1:
        raise Mistake(f"probe.paths.samples={samples}: at least 1")
    net.train()
    n, random = len(net.units), torch.Generator().manual_seed(seed)
    plain = all(unit.skip is None for unit in net.units)
    with gated(net.units) as through, recorded(net.units[:1], inputs=True) as first:
        loss = functional.cross_entropy(net(x), y)

    def norm(path: Iterable[int]) -> float:
        through.clear()
        through.update(path)
        (gradient,) = torch.autograd.grad(loss, first, retain_graph=True)
        return gradient.norm().item()

    gradient = [0.0] * (n + 1)
    for k in tqdm([n] if plain else range(n + 1), "paths", unit=" lengths", disable=None, leave=False):
        gradient[k] = statistics.fmean(map(norm, of_length(k, n, samples, random)))
    counts = [float(k == n) if plain else math.comb(n, k) / 2**n for k in range(n + 1)]
    values: Values = {"count_share": counts, "gradient": gradient}
    carried = [count * g for count, g in zip(counts, gradient, strict=True)]
    if not 0 < sum(carried) < math.inf:
        return values
    shares = [value / sum(carried) for value in carried]
    length = sum(k * share for k, share in enumerate(shares))
    start, end = (bisect_left(list(accumulate(shares)), edge) for edge in ((1 - HELD) / 2, (1 + HELD) / 2))
    return values | {
        "gradient_share": shares,
        "mean_length": length,
        "relative_length": length / n,
        "effective_from": start,
        "effective_to": end,
        "effective_share": sum(counts[start : end + 1]),
        "gradient_factor": growth(gradient, n),
    }


@contextmanager
def gated(units: Sequence[Unit]) -> Iterator[set[int]]:
    """A pass forward inside is the usual one. On each way back from it, also afterwards, the gradient passes the units
    whose places the set then holds through their branches alone, all others through their shortcuts alone.
    """
    through: set[int] = set()

    def gate(place: int) -> nn.Module | None:
        def split(skip: nn.Module, joined: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
            h, f = (tensor.view_as(tensor) for tensor in joined)
            h.register_hook(lambda gradient: torch.zeros_like(gradient) if place in through else gradient)
            f.register_hook(lambda gradient: gradient if place in through else torch.zeros_like(gradient))
            return h, f

        return split

    hooks = [u.skip.register_forward_pre_hook(gate(i)) for i, u in enumerate(units) if u.skip is not None]
    try:
        yield through
    finally:
        for hook in hooks:
            hook.remove()


def of_length(k: int, n: int, samples: int, random: torch.Generator) -> Iterator[Sequence[int]]:
    """Paths through k of n branches: all where they are at most `samples`, else so many random ones."""
    if math.comb(n, k) <= samples:
        yield from combinations(range(n), k)
    else:
        yield from (torch.randperm(n, generator=random)[:k].tolist() for _ in range(samples))
