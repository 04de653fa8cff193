"""How far a tiny relative change of the weights goes: into the signals, the logits, the gradient."""

import math

from torch import Tensor

from depthlab.errors import Mistake
from depthlab.network.resnet import Network
from depthlab.probes.covariate_shift import relative
from depthlab.probes.gradient_precision import cosine, gradient, joined
from depthlab.probes.inside import Values, growth, layers

ROUNDING = 0.6
"""Deviation of the noise that rounding both operands is like, in units of u = 2^-(bits + 1): a number anywhere in its
binade is off by 0.42 u (root mean square; u / sqrt(3) over the mean place), its product with another by sqrt(2) so
much."""


def sensitivity(net: Network, x: Tensor, y: Tensor, rate: float, *, size: float, seed: int) -> Values:
    """Every parameter times 1 + `size` times normal noise, drawn from `seed`; in float64, in training mode, so that
    no rounding is seen. All are relative changes in Euclidean norm, of the cross-entropy's gradient on the batch.

    `signals`: of what reaches each activation, and `signal_growth`: their growth from one to the next, geometric mean
    over the second half; `gradients`: of the gradient at each layer's weights, `gradient`: of the whole, `cosine`: of
    the angle by which it turns. `bits`: of mantissa that operands must have so that the cosine stays over 1/2 where
    ReLUs that flip cost a factor 1 - e / pi each, e the signal's error (see `gradient_precision`), in a plain net.
    Costs two passes forward and back. Raises Mistake on a size that is not positive.
    """
    if size <= 0:
        raise Mistake(f"probe.sensitivity.size={size}: a positive number")
    before, reached = gradient(net, x, y, "fp64")
    after, moved = gradient(net, x, y, "fp64", (size, seed))
    signals = [relative(a, b) for a, b in zip(reached, moved, strict=True)]
    half = signals[len(signals) // 2 :]
    amplified = sum(signals) / size
    return {
        "signals": signals,
        "signal_growth": growth(half, len(half) - 1),
        "gradients": [relative(a, b) for a, b in zip(before, after, strict=True)][: len(layers(net))],
        "gradient": relative(joined(before), joined(after)),
        "cosine": cosine(joined(before), joined(after)),
        "bits": math.log2(ROUNDING * amplified / (math.pi * math.log(2))) - 1 if amplified > 0 else math.nan,
    }
