"""What every probe needs: a network that is left as it was, its layers by name, what passes through them.

Probes add squares in float64: float32 holds a signal of 1e20 or a gradient of 1e-20, but not its square.
"""

import math
import multiprocessing
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from depthlab.network.resnet import Network

Values = dict[str, Any]
"""What a probe returns: numbers, and lists of numbers or of lists, by name."""


def progress(things: Iterable[Any], name: str, unit: str) -> Iterable[Any]:
    """Things one by one, with a bar where there is a terminal; not in a sweep's worker, as the sweep has its line."""
    hidden = None if multiprocessing.parent_process() is None else True
    return tqdm(things, name, unit=f" {unit}", disable=hidden, leave=False)


@contextmanager
def untouched(net: nn.Module) -> Iterator[None]:
    """Inside, nothing is recomputed or compiled (compiled code does not see new hooks), the network says once what it
    sees, and a probe may do what it likes; weights, running statistics, gradients, modes and random streams are then
    put back, bit for bit, whatever happened.
    """
    modes = [(module, module.training) for module in net.modules()]
    gradients = [(parameter, parameter.grad) for parameter in net.parameters()]
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for parameter, _ in gradients:
        parameter.grad = None
    ways = (net.recompute, net.once) if isinstance(net, Network) else (False, False)
    if isinstance(net, Network):
        net.recompute, net.once = False, True  # a second pass would set off a probe's hooks again
    compiled = [(module, module._compiled_call_impl) for module in net.modules()]
    for module, _ in compiled:
        module._compiled_call_impl = None
    devices = {tensor.device for tensor in state.values() if tensor.is_cuda}
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        if isinstance(net, Network):
            net.recompute, net.once = ways
        for module, call in compiled:
            module._compiled_call_impl = call
        with torch.no_grad():
            for name, tensor in net.state_dict().items():
                tensor.copy_(state[name])
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode


def layers(net: Network) -> list[tuple[str, nn.Module, nn.Module]]:
    """Name, layer with weights, and the module whose output is the layer's response, of the stem and of each layer of
    each branch: the norm that follows the layer, else the layer itself (He et al. 2015, section 4.2, "layer
    responses": after the norm, before the activation and the addition). Projections and the head are no part of it.
    """
    found: list[tuple[str, nn.Module, nn.Module]] = []
    places = [("stem", net.stem), *((f"unit{i + 1}", unit.branch) for i, unit in enumerate(net.units))]
    for place, sequence in places:
        inside = [(name, m) for name, m in sequence.named_modules() if name and not list(m.children())]
        for i, (name, module) in enumerate(inside):
            if isinstance(module, nn.Conv2d | nn.Linear):
                after = inside[i + 1][1] if i + 1 < len(inside) and ".norm" in f".{inside[i + 1][0]}" else module
                found.append((f"{place}.{name}", module, after))
    return found


def nonlinearities(net: Network) -> list[nn.Module]:
    """The activations of the stem, of each unit and of the tail, in their order."""
    return [module for name, module in net.named_modules() if name.rpartition(".")[2].startswith("act")]


@contextmanager
def recorded(modules: Iterable[nn.Module], *, inputs: bool = False) -> Iterator[list[Tensor]]:
    """Inside, a forward pass fills the list with the output of each module, in their order, or with its input."""
    places = {module: place for place, module in enumerate(modules)}
    tensors = [torch.empty(0)] * len(places)

    def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        tensors[places[module]] = given[0] if inputs else output

    hooks = [module.register_forward_hook(keep) for module in places]
    try:
        yield tensors
    finally:
        for hook in hooks:
            hook.remove()


def growth(values: list[float], steps: float) -> float:
    """The factor a step from the first of the values to the last, `steps` apart: their ratio's root; nan without."""
    if steps <= 0 or not values[0] > 0 or not values[-1] > 0:
        return math.nan
    return (values[-1] / values[0]) ** (1 / steps)
