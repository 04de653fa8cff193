"""What a trained network loses with a unit: deleted, or in another one's place (Veit et al. 2016, section 4)."""

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import combinations

import torch
from torch import Tensor, nn
from tqdm import tqdm

from depthlab.errors import Mistake
from depthlab.network.resnet import Network, ZeroPad
from depthlab.network.unit import Unit
from depthlab.probes.inside import Values

BATCH = 500
"""Images evaluated at once."""
HARMLESS = 1.0
"""A unit is harmless to delete if the error grows by less than so many points."""


@torch.no_grad()
def lesion(net: Network, x: Tensor, y: Tensor, rate: float, *, most: int, draws: int, seed: int) -> Values:
    """Error (%) of the fixed network, in evaluation mode, with units deleted or in each other's places.

    `error`: with one unit deleted, each in turn; `base_error`: with none; `median_error`, `worst_error`: of `error`;
    `harmless_share`: the share of units that cost less than a point. `deleted_error`: with k random units deleted, k
    from 0 to `most` or to all, mean over `draws` sets drawn from `seed`; `deleted_deviation`: its standard deviation
    over them. `swapped_error`, `swapped_deviation`: the same after k times swapping a random pair of units that are
    made of the same layers; `kendall_tau`: mean rank correlation of the order then with the first one; `swap_error`:
    after one swap, nan where no two units are alike. Costs 1 + units + 2 most draws evaluations. Raises Mistake if
    `most` or `draws` is not positive.
    """
    for key, value in (("most", most), ("draws", draws)):
        if value < 1:
            raise Mistake(f"probe.lesion.{key}={value}: at least 1")
    net.eval()
    units, random = net.units, torch.Generator().manual_seed(seed)
    n, pairs = len(units), alike(units)
    counts = [k for k in range(1, most + 1) for _ in range(draws)]
    chosen = [torch.randperm(n, generator=random)[:k].tolist() for k in counts if k <= n]
    orders = [swapped(n, pairs, k, random) for k in counts if pairs]
    lesions = [deleted([]), *(deleted([unit]) for unit in units)]
    lesions += [deleted([units[i] for i in places]) for places in chosen]
    lesions += [permuted(net, order) for order in orders]
    bar = tqdm(lesions, "lesion", unit=" networks", disable=None, leave=False)

    base, *errors = [error_with(lesion, net, x, y) for lesion in bar]
    single, after_deletions, after_swaps = errors[:n], errors[n : n + len(chosen)], errors[n + len(chosen) :]
    deleted_error, deleted_deviation = over_draws(after_deletions, draws)
    swapped_error, swapped_deviation = over_draws(after_swaps, draws)
    tau, _ = over_draws([kendall_tau(order) for order in orders], draws)
    return {
        "error": single,
        "base_error": base,
        "median_error": statistics.median(single),
        "worst_error": max(single),
        "harmless_share": statistics.fmean(error < base + HARMLESS for error in single),
        "deleted_error": [base, *deleted_error],
        "deleted_deviation": [0.0, *deleted_deviation],
        "swapped_error": [base, *swapped_error],
        "swapped_deviation": [0.0, *swapped_deviation],
        "kendall_tau": [1.0, *tau],
        "swap_error": swapped_error[0] if swapped_error else math.nan,
    }


@contextmanager
def deleted(units: Iterable[Unit]) -> Iterator[None]:
    """Inside, y = h(x) (+) 0: these units have no branch, and what follows the addition stays. A plain unit, which has
    no shortcut, gives x itself, brought to the unit's shape as in option A.
    """
    hooks = [
        unit.register_forward_hook(_bypassed) if unit.skip is None else unit.skip.register_forward_pre_hook(_alone)
        for unit in units
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _bypassed(unit: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> Tensor:
    (x,) = given
    return x if x.shape == y.shape else ZeroPad(math.ceil(x.shape[2] / y.shape[2]), y.shape[1] - x.shape[1])(x)


def _alone(skip: nn.Module, joined: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    h, f = joined
    return h, torch.zeros_like(f)


@contextmanager
def permuted(net: Network, order: Sequence[int]) -> Iterator[None]:
    """Inside, the unit that stands at place i is the one that stood at `order[i]`."""
    units, names = net.units, [name for name, module in net.named_modules() if isinstance(module, Unit)]

    def place(row: Iterable[Unit]) -> None:
        for name, unit in zip(names, row, strict=True):
            net.set_submodule(name, unit)

    place(units[i] for i in order)
    try:
        yield
    finally:
        place(units)


def alike(units: Sequence[Unit]) -> list[tuple[int, int]]:
    """The pairs of units that are made of the same layers, so that either fits into the other's place: units of one
    stage, without those that change the shape, or that find their first norm and activation in the stem.
    """
    made_of = [repr(unit) for unit in units]
    return [(i, j) for i, j in combinations(range(len(units)), 2) if made_of[i] == made_of[j]]


def swapped(n: int, pairs: Sequence[tuple[int, int]], k: int, random: torch.Generator) -> list[int]:
    """The order of n units after k swaps, each of the places of a random pair."""
    order = list(range(n))
    for drawn in torch.randint(len(pairs), (k,), generator=random).tolist():
        i, j = pairs[drawn]
        order[i], order[j] = order[j], order[i]
    return order


def kendall_tau(order: Sequence[int]) -> float:
    """Rank correlation of an order with the first one: (pairs in order - pairs out of order) / pairs."""
    return statistics.fmean(1 if a < b else -1 for a, b in combinations(order, 2))


def error_with(lesion: AbstractContextManager[None], net: Network, x: Tensor, y: Tensor) -> float:
    """Error (%) of the network with a lesion."""
    with lesion:
        logits = torch.cat([net(part) for part in x.split(BATCH)])
    return 100 * (logits.argmax(1) != y).double().mean().item()


def over_draws(values: Sequence[float], draws: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each `draws` values that follow one another."""
    table = torch.tensor(values, dtype=torch.float64).view(-1, draws)
    return table.mean(1).tolist(), table.std(1, correction=0).tolist()
