"""What a trained network loses with a unit: deleted, or in another one's place (Veit et al. 2016, section 4)."""

import math
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import combinations, islice

import torch
from torch import Tensor

from depthlab.errors import Mistake
from depthlab.machine.memory import at_once
from depthlab.network.resnet import Network, ZeroPad
from depthlab.network.skip import concat
from depthlab.network.unit import Unit
from depthlab.probes.inside import Values, progress

HARMLESS = 1.0
"""A unit is harmless to delete if the error grows by less than so many points."""

Lesion = Mapping[Unit, Callable[[Tensor], Tensor]]
"""Units, and what stands in their places."""


@torch.no_grad()
def lesion(net: Network, x: Tensor, y: Tensor, rate: float, *, draws: int, seed: int) -> Values:
    """Error (%) of the fixed network, in evaluation mode, with units deleted or in each other's places.

    `error`: with one unit deleted, each in turn; `base_error`: with none; `median_error`, `worst_error`: of `error`;
    `median_cost`: the median less the base (points); `harmless_share`: the share of units that cost less than a
    point. `deleted_error`: with k random units deleted, k from 0 to all but one, mean over `draws` sets drawn from
    `seed`; `deleted_deviation`: standard deviation over them. `swapped_error`, `swapped_deviation`: the same after k
    swaps, from 0 to half the units, each of a random pair made of the same layers; `kendall_tau`: mean rank
    correlation of the order then with the first one. `cut_error`: with all units of one stage cut off from what came
    before them, each stage in turn, zeros instead of h(x), and `least_cut_cost`: the least of them less the base
    (points); not of a plain network.

    The units are those with a skip, or all of a plain network. In a dense one a deleted unit's channels are zero for
    all that read them. Where no two units have the same layers, as there, none are swapped. Costs 1 + n + draws (n -
    1 + n // 2) evaluations for n units, and one a stage. Raises Mistake if `draws` is not positive.
    """
    if draws < 1:
        raise Mistake(f"probe.lesion.draws={draws}: at least 1")
    net.eval()
    units, random = skipping(net), torch.Generator().manual_seed(seed)
    n, pairs = len(units), alike(units)
    sets = [torch.randperm(n, generator=random)[:k].tolist() for k in range(1, n) for _ in range(draws)]
    orders = [swapped(n, pairs, k, random) for k in range(1, n // 2 + 1) for _ in range(draws)]
    lesions: list[Lesion] = [deleted(units, places) for places in ([], *([i] for i in range(n)), *sets)]
    lesions += [permuted(units, order) for order in orders]
    joined = [] if units[0].skip is None else net.stages
    stages = [[unit for unit in stage.modules() if unit in units] for stage in joined]
    lesions += [{unit: partial(cut, unit) for unit in stage} for stage in stages]

    bar = progress(lesions, "lesion", "networks")
    base, *errors = [error_with(lesion, net, x, y) for lesion in bar]
    parts = iter(errors)
    single, after_deletions, after_swaps = ([*islice(parts, len(part))] for part in (units, sets, orders))
    deleted_error, deleted_deviation = over_draws(after_deletions, draws)
    swapped_error, swapped_deviation = over_draws(after_swaps, draws)
    tau, _ = over_draws([kendall_tau(order) for order in orders], draws)
    return {
        "error": single,
        "base_error": base,
        "median_error": statistics.median(single),
        "median_cost": statistics.median(single) - base,
        "worst_error": max(single),
        "harmless_share": sum(error - base < HARMLESS for error in single) / n,
        "deleted_error": [base, *deleted_error],
        "deleted_deviation": [0.0, *deleted_deviation],
        "swapped_error": [base, *swapped_error],
        "swapped_deviation": [0.0, *swapped_deviation],
        "kendall_tau": [1.0, *tau],
        **({"cut_error": cuts, "least_cut_cost": min(cuts) - base} if (cuts := [*parts]) else {}),
    }


@contextmanager
def replacing(lesion: Lesion) -> Iterator[None]:
    """Inside, other functions of x stand in the places of these units."""
    for unit, function in lesion.items():
        vars(unit)["forward"] = function  # seen before the class's
    try:
        yield
    finally:
        for unit in lesion:
            del vars(unit)["forward"]


def skipping(net: Network) -> list[Unit]:
    """The units that have a skip, which those between a dense network's stages have not; all of a plain network."""
    return [unit for unit in net.units if unit.skip is not None] or net.units


def cut(unit: Unit, x: Tensor) -> Tensor:
    """What is left of a unit without its shortcut, 0 (+) F(x), and what follows the join stays."""
    h, f = unit.sides(x)
    return unit.after(f if unit.skip is None or h is None else unit.skip(torch.zeros_like(h), f))


def without(unit: Unit, x: Tensor) -> Tensor:
    """What is left of a unit without its branch, h(x) (+) 0, and what follows the addition stays. A plain unit, which
    has no shortcut, gives x itself, brought to the unit's shape as in option A.
    """
    h, a = unit.split(x)
    if unit.skip is not None and h is not None:
        f = unit.branch(a) if isinstance(unit.skip, concat) else h  # of F's shape
        return unit.after(unit.skip(h, torch.zeros_like(f)))
    f = unit.after(unit.branch(a))
    return x if x.shape == f.shape else ZeroPad(math.ceil(x.shape[2] / f.shape[2]), f.shape[1] - x.shape[1])(x)


def deleted(units: Sequence[Unit], places: Sequence[int]) -> Lesion:
    """No branch at these places."""
    return {units[place]: partial(without, units[place]) for place in places}


def permuted(units: Sequence[Unit], order: Sequence[int]) -> Lesion:
    """At place i the unit that stood at `order[i]`."""
    return {units[i]: partial(Unit.forward, units[j]) for i, j in enumerate(order) if i != j}


def alike(units: Sequence[Unit]) -> list[tuple[int, int]]:
    """The pairs of units that are made of the same layers, so that either fits into the other's place: of one stage,
    without those that change the shape, or that find their first norm and activation in the stem. Numbers that a skip
    has from its place (stochastic depth's p, beta of `nf`) go with the unit.
    """
    made_of = [re.sub(r"\b(p|beta)=[^,)]+", "", repr(unit)) for unit in units]
    return [(i, j) for i, j in combinations(range(len(units)), 2) if made_of[i] == made_of[j]]


def swapped(n: int, pairs: Sequence[tuple[int, int]], k: int, random: torch.Generator) -> list[int]:
    """The order of n units after k swaps, each of the places of a random pair; without pairs the first one."""
    order = list(range(n))
    for _ in range(k if pairs else 0):
        i, j = pairs[int(torch.randint(len(pairs), (), generator=random))]
        order[i], order[j] = order[j], order[i]
    return order


def kendall_tau(order: Sequence[int]) -> float:
    """Rank correlation of an order with the first one: (pairs in order - pairs out of order) / pairs."""
    return statistics.fmean(1 if a < b else -1 for a, b in combinations(order, 2))


def error_with(lesion: Lesion, net: Network, x: Tensor, y: Tensor) -> float:
    """Error (%) of the network with a lesion."""
    with replacing(lesion):
        logits = torch.cat([net(part) for part in x.split(at_once(x.shape))])
    return 100 * (logits.argmax(1) != y).double().mean().item()


def over_draws(values: Sequence[float], draws: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each `draws` values that follow one another."""
    table = torch.tensor(values, dtype=torch.float64).view(-1, draws)
    return (table.mean(1).tolist(), table.std(1, correction=0).tolist()) if values else ([], [])
