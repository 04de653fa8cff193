"""How long the paths through a residual network are, and which of them carry its gradient (Veit et al. 2016, 5)."""

import math
import statistics
from collections.abc import Collection, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from depthlab.errors import Mistake
from depthlab.network.resnet import Network
from depthlab.network.unit import Unit
from depthlab.probes.inside import Values, progress, recorded
from depthlab.probes.lesion import replacing, skipping

HELD = 0.95
"""Share of the gradient that the effective paths hold."""


def paths(net: Network, x: Tensor, y: Tensor, rate: float, *, draws: int, seed: int) -> Values:
    """Paths through n units: each passes a unit through its branch or around it through the shortcut, which makes
    2^n, and its length is the number of branches. Lists hold a value for each length from 0 to n.

    `count_share`: of all paths, C(n, k) / 2^n. `gradient`: Euclidean norm of the cross-entropy's gradient that comes
    along one path to the first unit's input, in training mode, mean over `draws` random paths drawn from `seed`.
    `gradient_share`: C(n, k) gradient[k], as a share of the sum over k. `mean_length`, `mean_count_length`: the mean
    length under these shares and under `count_share`. `effective_from`, `effective_to`: the shortest run of lengths
    that holds 95 % of the gradient; `effective_share`: what share of all paths they are.

    A dense network's paths pass a unit through its branch or beside it, in the channels that were there before; the
    units between its stages, which all paths pass, do not count. A plain network is one path, of length n. Masks of
    dropout and stochastic depth are the same in all passes. Costs draws (n + 1) passes forward and back. Raises
    Mistake if `draws` is not positive.
    """
    if draws < 1:
        raise Mistake(f"probe.paths.draws={draws}: at least 1")
    net.train()
    units, random = skipping(net), torch.Generator().manual_seed(seed)
    n, plain = len(units), all(unit.skip is None for unit in units)
    gradient = [0.0] * (n + 1)
    for k in progress([n] if plain else range(n + 1), "paths", "lengths"):
        sets = [torch.randperm(n, generator=random)[:k].tolist() for _ in range(draws)]
        norms = [path_gradient(net, x, y, {units[i] for i in places}).double().norm().item() for places in sets]
        gradient[k] = statistics.fmean(norms)
    counts = [float(k == n) if plain else math.comb(n, k) / 2**n for k in range(n + 1)]
    carried = [count * g for count, g in zip(counts, gradient, strict=True)]
    shares = [value / (sum(carried) or math.nan) for value in carried]
    start, end = _shortest(shares)
    return {
        "count_share": counts,
        "gradient": gradient,
        "gradient_share": shares,
        "mean_count_length": sum(k * share for k, share in enumerate(counts)),
        "mean_length": sum(k * share for k, share in enumerate(shares)),
        "effective_from": start,
        "effective_to": end,
        "effective_share": sum(counts[start : end + 1]),
    }


def path_gradient(net: Network, x: Tensor, y: Tensor, chosen: Collection[Unit]) -> Tensor:
    """The cross-entropy's gradient at the first unit's input that comes back through the branches of the `chosen`
    units and the shortcuts of the others. The pass forward is the usual one, and leaves running statistics as they
    were; a plain unit has only its branch.
    """
    torch.manual_seed(0)
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    halves = {unit: partial(_one_way, unit, unit in chosen) for unit in net.units}
    with replacing(halves), recorded(net.units[:1], inputs=True) as first:
        loss = functional.cross_entropy(functional_call(net, buffers, (x,)), y)
    return torch.autograd.grad(loss, first)[0]


def _one_way(unit: Unit, through: bool, x: Tensor) -> Tensor:
    h, f = unit.sides(x)
    if h is None or unit.skip is None:
        return unit.after(f)
    return unit.after(unit.skip(h.detach(), f) if through else unit.skip(h, f.detach()))


def _shortest(shares: Sequence[float]) -> tuple[int, int]:
    """First and last place of the shortest run that holds the effective share; all where none does."""
    places = range(len(shares))
    runs = [(start, start + length) for length in places for start in range(len(shares) - length)]
    return next((run for run in runs if sum(shares[run[0] : run[1] + 1]) >= HELD), (0, len(shares) - 1))
