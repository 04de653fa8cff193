"""Fewer bits than float32 has: TF32 as tensor cores compute, and half precision, on any device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

BITS = {"fp64": 52, "fp32": 23, "tf32": 10, "fp16": 10, "bf16": 7}
"""Stored bits of the mantissa: numbers are rounded by at most u = 2^-(bits + 1), relative to their binade."""


def rounded(x: Tensor, bits: int) -> Tensor:
    """A float32 tensor to the nearest numbers with `bits` stored bits of mantissa, ties to even. The range of the
    exponent stays, and what is not finite.
    """
    cut, whole = BITS["fp32"] - bits, x.view(torch.int32)
    if cut <= 0:
        return x
    up = (1 << (cut - 1)) - 1 + ((whole >> cut) & 1)
    return torch.where(x.isfinite(), (((whole + up) >> cut) << cut).view(torch.float32), x)


def float32_products(precision: str) -> None:
    """How a GPU computes products of float32 numbers, in all threads: `ieee`, or `tf32` by its tensor cores. A CPU,
    some of which have instructions for bfloat16, computes `ieee`.
    """
    for backend, wanted in zip(_backends(), [precision, precision, "ieee", "ieee"], strict=True):
        backend.fp32_precision = wanted


@contextmanager
def float32_products_inside(precision: str) -> Iterator[None]:
    """Inside, `float32_products` of this precision, or of what is set there; then what was before."""
    before = [backend.fp32_precision for backend in _backends()]
    try:
        float32_products(precision)
        yield
    finally:
        for backend, precision in zip(_backends(), before, strict=True):
            backend.fp32_precision = precision


def _backends() -> list[Any]:
    gpu = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]  # pyrefly: ignore[missing-attribute]
    return [*gpu, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv]  # pyrefly: ignore[missing-attribute]


PRODUCTS = (functional.conv2d, functional.linear)
"""The functions that tensor cores compute, or a CPU's instructions for half precision."""


@contextmanager
def half_precision(dtype: torch.dtype, device: str, *, cache: bool = True) -> Iterator[None]:
    """Inside, torch's autocast to bfloat16 or float16, with its `cache` of weights, or without.

    On a CPU that has no instructions for the format torch's convolutions take ten times as long in it as in float32.
    There float32 computes what the instructions would: rounded operands, float32 sums, a rounded result.
    Not for compiled code, which leaves out casts to a format and back.
    """
    with torch.autocast(device, dtype, cache_enabled=cache):
        if device != "cpu" or _native(dtype):
            yield
        else:
            with _float32_sums(dtype):
                yield


def _native(dtype: torch.dtype) -> bool:
    """Whether this CPU's convolutions know the format."""
    name = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    return torch.backends.mkldnn.is_available() and getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported")()


class _float32_sums(TorchFunctionMode):
    """Inside, convolutions and linear maps, forward and back, add in float32 the products of numbers of a type, and
    give numbers of this type.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in PRODUCTS:
            return func(*args, **(kwargs or {}))
        operands, more = _operands(args, kwargs)
        rounded = [arg.to(self.dtype).float() if isinstance(arg, Tensor) else arg for arg in operands]
        with torch.autocast("cpu", enabled=False):
            return func(*rounded, **more).to(self.dtype)


def _operands(args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    """What a product is called with, its tensors in their places, also where they were given by name."""
    more = dict(kwargs or {})
    return [*args, *(more.pop(name, None) for name in ("input", "weight", "bias")[len(args) :])], more


class rounded_operands(TorchFunctionMode):
    """Inside, convolutions and linear maps see their input, their weights and the gradient of their output with
    `bits` bits of mantissa, and add in float32: TF32, for 10 bits. All else is float32.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in PRODUCTS:
            return func(*args, **(kwargs or {}))
        (x, weight, *rest), more = _operands(args, kwargs)
        operands = (_Forward.apply(operand, self.bits) for operand in (x, weight))
        return _Back.apply(func(*operands, *rest, **more), self.bits)


class _Forward(torch.autograd.Function):
    """Rounds on the way forward; the gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int) -> Tensor:
        return rounded(x, bits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _Back(torch.autograd.Function):
    """Rounds the gradient on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int) -> Tensor:
        ctx.bits = bits
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return rounded(gradients[0], ctx.bits), None
