"""Optimisers: how a step follows from the gradients, `recipe/optimizer=adamw`.

Each is made for a network and a recipe, whose `rate`, schedule and weight decay hold for all of them; a parameter
group's `factor`, if it has one, multiplies the rate. Weights are parameters of at least two dimensions.
"""

from collections.abc import Callable
from importlib.util import find_spec
from inspect import unwrap
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from depthlab.errors import Mistake, extra, within
from depthlab.training.kfac import KFAC
from depthlab.training.recipe import PARTS, Recipe

__all__ = ["adamw", "kfac", "muon", "sgd", "soap"]

PACKAGES = {"muon": "pytorch_optimizer", "soap": "pytorch_optimizer"}
"""What some of them need; the extra `optimizers` brings it."""


def check(name: str) -> None:
    """Raises Mistake where an optimiser's package is not installed."""
    if name in PACKAGES and find_spec(PACKAGES[name]) is None:
        raise Mistake(f"recipe/optimizer={name}: not installed; {extra('optimizers')}")


class SGD(torch.optim.SGD):
    """torch's. Its methods are wrapped: their first call imports torch's compiler, two fifths of a short run's time,
    to keep it away from them. No run compiles its optimiser, so these are the methods themselves.
    """

    step = torch.no_grad()(unwrap(torch.optim.SGD.step))
    add_param_group, zero_grad = unwrap(torch.optim.SGD.add_param_group), unwrap(torch.optim.SGD.zero_grad)
    state_dict, load_state_dict = unwrap(torch.optim.SGD.state_dict), unwrap(torch.optim.SGD.load_state_dict)


def sgd(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """v = momentum v + g + decay w, w = w - rate v (He et al. 2015, section 3.4)."""
    groups = _groups(net, recipe)
    return SGD(groups, recipe.rate, recipe.momentum, nesterov=recipe.nesterov, fused=True)


def adamw(net: nn.Module, recipe: Recipe, *, beta1: float, beta2: float, eps: float) -> torch.optim.Optimizer:
    """Adam, and apart from it a decay by rate x decay each step (Loshchilov & Hutter 2019, algorithm 2)."""
    _shares(beta1=beta1, beta2=beta2)
    within("recipe.optimizer.eps", eps, 0, ends="(]")
    return torch.optim.AdamW(_groups(net, recipe), recipe.rate, (beta1, beta2), eps, fused=True)


def muon(net: nn.Module, recipe: Recipe, *, others: float) -> torch.optim.Optimizer:
    """Momentum made nearly orthogonal by five Newton-Schulz steps (Jordan et al. 2024), a convolution's weights as a
    matrix, out x (in, kernel). Biases, norms and the last layer take AdamW's steps, at `others` times the rate. The
    authors advise AdamW for the first convolution, too, a momentum of 0.95 and a rate of 0.02.

    The Newton-Schulz steps are in bfloat16, as the authors', and add in float32, on any CPU, too (`Float32Sums`).
    """
    from pytorch_optimizer.optimizer.muon import Muon

    class Summing(Muon):
        def step(self, closure: Any = None) -> Any:
            with Float32Sums():
                return super().step(closure)

    within("recipe.optimizer.others", others, 0)
    *_, last = (p for p in net.parameters() if p.dim() >= PARTS["weights"])
    groups = _groups(net, recipe, lambda p: p.dim() >= PARTS["weights"] and p is not last)
    for group in groups:
        group |= {"use_muon": group.pop("chosen")}
        group |= {"momentum": recipe.momentum} if group["use_muon"] else {"factor": others}
    return Summing(groups, recipe.rate)


class Float32Sums(TorchFunctionMode):
    """Inside, a CPU adds products of bfloat16 matrices in float32 and rounds once, as instructions for it do. Few
    CPUs have these, and without them torch's own products take some ten times as long.
    """

    products = (torch.mm, torch.bmm, torch.addmm, torch.baddbmm)

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        more = dict(kwargs or {})
        if func not in self.products or args[0].device.type != "cpu" or args[0].dtype != torch.bfloat16:
            return func(*args, **more)
        out = more.pop("out", None)
        result = func(*(matrix.float() for matrix in args), **more)
        return result.bfloat16() if out is None else out.copy_(result)


def soap(net: nn.Module, recipe: Recipe, *, beta1: float, beta2: float, every: int) -> torch.optim.Optimizer:
    """Adam in the eigenbasis of Shampoo's preconditioner, renewed `every` so many steps (Vyas et al. 2025, alg. 3).

    The first step only begins the averages, and moves nothing.
    """
    from pytorch_optimizer.optimizer.soap import SOAP

    _shares(beta1=beta1, beta2=beta2)
    if every < 1:
        raise Mistake(f"recipe.optimizer.every={every}: at least 1")
    return SOAP(_groups(net, recipe), recipe.rate, (beta1, beta2), precondition_frequency=every)


def kfac(
    net: nn.Module, recipe: Recipe, *, damping: float, average: float, every: int, clip: float
) -> torch.optim.Optimizer:
    """Natural gradient with a Kronecker-factored Fisher matrix (Martens & Grosse 2015; convolutions: Grosse & Martens
    2016), with the recipe's momentum, where images or pixels have labels; see training/kfac.py. Other parameters,
    those of norms, take SGD's steps.

    `damping` is lambda, of factored Tikhonov damping; `average` the greatest share of the past in the factors; they
    and their inverses are renewed `every` so many steps; `clip`: the largest change, rate^2 u^T F u, of a step.
    """
    _shares(average=average)
    for key, value in (("damping", damping), ("every", every), ("clip", clip)):
        if not value > 0:
            raise Mistake(f"recipe.optimizer.{key}={value}: a positive number")
    settings = {"damping": damping, "average": average, "every": every, "clip": clip}
    return KFAC(net, _groups(net, recipe), recipe.rate, recipe.momentum, **settings)


def _shares(**values: float) -> None:
    for key, value in values.items():
        if not 0 <= value < 1:
            raise Mistake(f"recipe.optimizer.{key}={value}: at least 0 and under 1")


def _groups(
    net: nn.Module, recipe: Recipe, chosen: Callable[[nn.Parameter], bool] | None = None
) -> list[dict[str, Any]]:
    """Weight decay, and the schedule, on the parts of the network that the recipe names; those `chosen` apart."""
    for key, part in (("decay_on", recipe.decay_on), ("schedule_on", recipe.schedule_on or "all")):
        if not any(p.dim() >= PARTS[part] for p in net.parameters()):
            raise Mistake(f"recipe.{key}={part}: this network has none")
    decayed, scheduled = PARTS[recipe.decay_on], PARTS[recipe.schedule_on or "all"]
    groups: dict[tuple[bool, ...], list[nn.Parameter]] = {}
    for parameter in sorted(net.parameters(), key=lambda p: p.dim() < decayed):  # the decayed first
        dim = parameter.dim()
        kind = dim >= decayed, dim >= scheduled, *([chosen(parameter)] if chosen else [])
        groups.setdefault(kind, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": recipe.decay * decays, "scheduled": varies}
        | ({"chosen": choice[0]} if choice else {})
        for (decays, varies, *choice), parameters in groups.items()
    ]
