"""How many images are evaluated at once: all their signals lie in memory together."""

import math
from collections.abc import Sequence

EVALUATION_BATCH, EVALUATION_PIXELS = 500, 2**21


def at_once(shape: Sequence[int], least: int = 1) -> int:
    """How many images (..., height, width) are evaluated at once: 500, fewer where they are large, but so many at
    `least`, as a batch of training is.
    """
    return min(EVALUATION_BATCH, max(least, EVALUATION_PIXELS // math.prod(shape[-2:])))
