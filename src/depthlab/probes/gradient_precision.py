"""How much of the gradient rounding leaves: a working precision against float64."""

import copy
import math
import statistics
from bisect import bisect
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional

from depthlab.errors import Mistake
from depthlab.network.resnet import Network
from depthlab.network.rounding import BITS, float32_products_inside, half_precision, rounded_operands
from depthlab.probes.covariate_shift import relative
from depthlab.probes.inside import Values, layers, nonlinearities, recorded


def gradient_precision(net: Network, x: Tensor, y: Tensor, rate: float, *, formats: list[str]) -> Values:
    """The cross-entropy's gradient on the batch in each of the `formats`, in training mode, against float64's.

    fp64, fp32; bf16 and fp16 as torch's autocast computes; tf32 and a number of mantissa bits, 1 to 23, emulated on
    every device: the operands of convolutions and linear maps are rounded, forward and back, sums and all else are
    float32. `cosine_F`, `error_F`: cosine and relative error of the whole gradient in format F; `cosines_F`,
    `errors_F`: of each layer's weights.

    `signals_F`: relative error e of what reaches each activation, `flips_F`: share of its entries whose sign differs,
    so that a ReLU is on in one pass and off in the other (not a mirrored one, which sees differences of entries):
    e / pi of two Gaussian signals (Sheppard 1899; a small angle e); `flip_ratio_F`: all flips by the sum of e / pi.
    `expected_F`: product of 1 - e / pi over the activations, the cosine where a plain network loses its gradient by
    ReLUs that flip; `expectations_F`: over those behind each layer, and `gap_F`: mean of the cosine minus this, over
    the layers whose gradient is not 0. `power`, of two numbers of bits or more: -log2(1 - cosine) grows by so much a
    bit (least squares), 1 where the loss goes with the rounding error, 2 where with its square. Null, what overflows.

    A GPU computes as in `precision=fp32`, whatever the run's precision is. Costs a pass forward and back a format and
    one more. Raises Mistake on another format.
    """
    for form in formats:
        if form not in BITS and not (form.isdigit() and 1 <= int(form) <= BITS["fp32"]):
            given = f"probe.gradient_precision.formats={formats}"
            raise Mistake(f"{given}: each one of {', '.join(BITS)}, or mantissa bits from 1 to {BITS['fp32']}")
    exact, reached = gradient(net, x, y, "fp64")
    place = {module: place for place, module in enumerate(net.modules())}
    activations = [place[module] for module in nonlinearities(net)]
    passed = [bisect(activations, place[layer]) for _, layer, _ in layers(net)]
    depth = len(passed)
    values: Values = {}
    for form in formats:
        found, signals = gradient(net, x, y, form)
        errors = [relative(a, b) for a, b in zip(reached, signals, strict=True)]
        flips = [flipped(a, b) for a, b in zip(reached, signals, strict=True)]
        kept = [max(0.0, 1 - e / math.pi) if math.isfinite(e) else math.nan for e in errors]
        pairs = [*zip(exact, found, strict=True)]
        cosines = [cosine(a, b) for a, b in pairs[:depth]]
        expectations = [math.prod(kept[before:]) for before in passed]
        known = [c - e for c, e in zip(cosines, expectations, strict=True) if math.isfinite(c)]
        values |= {
            f"cosine_{form}": cosine(joined(exact), joined(found)),
            f"error_{form}": relative(joined(exact), joined(found)),
            f"cosines_{form}": cosines,
            f"errors_{form}": [relative(a, b) for a, b in pairs[:depth]],
            f"signals_{form}": errors,
            f"flips_{form}": flips,
            f"flip_ratio_{form}": sum(flips) * math.pi / sum(errors) if 0 < sum(errors) < math.inf else math.nan,
            f"expected_{form}": math.prod(kept),
            f"expectations_{form}": expectations,
            f"gap_{form}": statistics.fmean(known) if known else math.nan,
        }
    lost = {int(form): 1 - values[f"cosine_{form}"] for form in formats if form.isdigit()}
    if len(lost) > 1:
        seen = [(bits, -math.log2(loss)) for bits, loss in lost.items() if loss > 0]
        values["power"] = statistics.linear_regression(*zip(*seen, strict=True)).slope if len(seen) > 1 else math.nan
    return values


def gradient(
    net: Network, x: Tensor, y: Tensor, form: str, noise: tuple[float, int] | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """In a format, in float64: the gradient at the layers' weights, then at all other parameters; the signals that
    reach the activations. `noise`: each parameter times 1 + its first number times normal noise, from its second, a
    seed.
    """
    twin = copy.deepcopy(net).to(torch.float64 if form == "fp64" else torch.float32).train()
    if noise is not None:
        size, draw = noise[0], torch.Generator().manual_seed(noise[1])
        with torch.no_grad():
            for parameter in twin.parameters():
                factor = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
                parameter.mul_(1 + size * factor.to(parameter.device))
    torch.manual_seed(0)  # the same masks of dropout
    with float32_products_inside("ieee"):
        with recorded(nonlinearities(twin), inputs=True) as signals, _format(form, x.device):
            loss = functional.cross_entropy(twin(x.to(twin.head.weight.dtype)), y)
        own = [layer.get_parameter("weight") for _, layer, _ in layers(twin)]
        others = [p for p in twin.parameters() if not any(p is weight for weight in own)]
        found = torch.autograd.grad(loss, [*own, *others])
    return [g.double() for g in found], [signal.detach().double() for signal in signals]


def _format(form: str, device: torch.device) -> AbstractContextManager:
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if form in half:
        return half_precision(half[form], device.type)
    return rounded_operands(BITS.get(form) or int(form)) if form not in ("fp64", "fp32") else nullcontext()


def flipped(a: Tensor, b: Tensor) -> float:
    """Share of the entries that are above 0 in one of two tensors alone; nan where one is not finite."""
    return ((a > 0) != (b > 0)).double().mean().item() if a.isfinite().all() and b.isfinite().all() else math.nan


def joined(tensors: list[Tensor]) -> Tensor:
    """All entries in one vector."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def cosine(a: Tensor, b: Tensor) -> float:
    """Of the angle between two tensors, as vectors; nan where one is zero."""
    return ((a * b).sum() / (a.norm() * b.norm())).item()
