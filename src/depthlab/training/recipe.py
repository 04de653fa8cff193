"""The recipe as pure functions: how long and at which rate (He et al. 2015, section 4.2). No torch in here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from depthlab.errors import Mistake, one_of, within

Schedule = Callable[[int, int], float]

# Parts of a network, by the fewest dimensions that their parameters have.
PARTS = {"all": 0, "weights": 2, "convolutions": 4}


@dataclass
class Warmup:
    """A lower `rate` at the start, until the training error (%) is under `until_error` or for a `share` of the run,
    whichever ends first, for networks of at least `from_depth` layers.
    """

    rate: float
    until_error: float
    share: float
    from_depth: int


@dataclass
class Recipe:
    """The constants of training; configs/recipe/he2015.yaml says what each means."""

    batch: int
    iterations: int | None
    rate: float
    momentum: float
    nesterov: bool
    decay: float
    decay_on: str
    schedule_on: str | None
    warmup: Warmup
    schedule: Any
    optimizer: Any = None


def learning_rate(recipe: Recipe, schedule: Schedule, step: int, steps: int, *, warm: bool) -> float:
    """The rate of iteration `step` of `steps`; `warm`: the warm-up has not ended."""
    if warm:
        return recipe.warmup.rate
    return recipe.rate * schedule(step, steps)


def still_warm(recipe: Recipe, depth: int, step: int, steps: int, error: Callable[[], float]) -> bool:
    """Whether the warm-up goes on at iteration `step`; asked only while it has not ended.

    `error()` gives the training error (%), nan while there is none; it is asked for only where it matters.
    """
    warmup = recipe.warmup
    if depth < warmup.from_depth or step >= round(warmup.share * steps):
        return False
    return warmup.until_error <= 0 or not error() < warmup.until_error


def check_rates(recipe: Recipe, schedule: Schedule, steps: int) -> None:
    """Raises Mistake if a rate of the run, seen at up to a thousand iterations, is not one that float32 can hold."""
    for step in {*range(0, steps, max(steps // 1000, 1)), max(steps - 1, 0)}:
        try:
            rate = learning_rate(recipe, schedule, step, max(steps, 1), warm=False)
        except (ArithmeticError, ValueError) as error:
            raise Mistake(f"recipe.schedule: no rate at iteration {step} ({error})") from None
        if not 0 <= rate < 3.4e38:
            raise Mistake(f"recipe.schedule: the rate of iteration {step} is {rate:g}, not from 0 to 3.4e38")


def check(recipe: Recipe) -> None:
    """Raises Mistake on a constant outside its range."""
    within("recipe.batch", recipe.batch, 1)
    within("recipe.iterations", recipe.iterations or 0, 0, 2**31 - 1)
    within("recipe.rate", recipe.rate, 0, ends="(]")
    within("recipe.momentum", recipe.momentum, 0, 1, ends="[)")
    if recipe.nesterov and not recipe.momentum:
        raise Mistake("recipe.nesterov=true: needs recipe.momentum above 0")
    within("recipe.decay", recipe.decay, 0)
    within("recipe.warmup.rate", recipe.warmup.rate, 0, ends="(]")
    within("recipe.warmup.share", recipe.warmup.share, 0, 1)
    for key, given in (("decay_on", recipe.decay_on), ("schedule_on", recipe.schedule_on or "all")):
        if given not in PARTS:
            raise one_of(f"recipe.{key}", given, PARTS)
