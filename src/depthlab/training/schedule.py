"""Schedules: the learning rate's factor as a pure function of the iteration `step` of `steps`."""

import math


def constant(step: int, steps: int) -> float:
    """1."""
    return 1.0


def step(step: int, steps: int, *, drops: list[float], factor: float) -> float:
    """`factor` to the number of drops passed; `drops` are shares of the run (He et al. 2015, section 4.2)."""
    return factor ** sum(step >= round(drop * steps) for drop in drops)


def cosine(step: int, steps: int) -> float:
    """Half a cosine, from 1 at the first iteration towards 0 after the last (Loshchilov & Hutter 2017, eq. 5)."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def one_cycle(step: int, steps: int, *, rise: float, start: float, end: float) -> float:
    """From 1/start up to 1 over the share `rise` of the run, then down to 1/(start end) (Smith & Topin 2018)."""
    peak, last = max(rise * steps - 1, 1e-9), max(steps - 1, 1)
    if step <= peak:
        low, position = 1 / start, step / peak
    else:
        low, position = 1 / (start * end), (last - step) / max(last - peak, 1e-9)
    return low + (1 - low) * (1 - math.cos(math.pi * position)) / 2


def exponential(step: int, steps: int, *, growth: float, start: float | None = None) -> float:
    """`growth` to the power of the iteration, counted from `start` (Li & Arora 2019)."""
    return growth ** (step + (start or 0))
