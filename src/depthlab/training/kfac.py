"""K-FAC: natural gradient with a Kronecker-factored Fisher matrix (Martens & Grosse 2015; Grosse & Martens 2016).

Of a layer with inputs a and derivatives g of the loss by its outputs, the Fisher matrix of the weights is taken as
A x G, A = E[a a^T] and G = E[g g^T], so that its inverse is that of two small matrices.
"""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class KFAC(torch.optim.Optimizer):
    """Steps G^-1 V A^-1 for the gradient V of each convolution's and linear map's weights, its bias as one column
    more; the gradient itself for other parameters. Weight decay joins the gradient, momentum follows.

    Call `look(said)` between each forward and backward pass in training. Its settings are those of
    `optimizer.kfac`.
    """

    def __init__(self, net: nn.Module, groups: Any, rate: float, momentum: float, **settings: Any) -> None:
        super().__init__(groups, {"lr": rate, "step": 0})
        self.momentum, self.every, self.average = momentum, settings["every"], settings["average"]
        self.damping, self.clip = settings["damping"], settings["clip"]
        self.layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear) and _plain(m)]
        self.seen: dict[nn.Conv2d | nn.Linear, tuple[Tensor, Tensor]] = {}
        for parameter in chain.from_iterable(group["params"] for group in self.param_groups):
            self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        for layer in self.layers:
            # a function, not the method: a copy of the network would copy the optimiser with that
            layer.register_forward_hook(lambda module, given, output: self._keep(module, given, output))
            outputs, inputs = layer.weight.shape[0], layer.weight[0].numel() + (layer.bias is not None)
            for key, size in (("A", inputs), ("G", outputs)):
                self.state[layer.weight][key] = layer.weight.new_zeros(size, size)
                self.state[layer.weight][f"{key}_inverse"] = torch.eye(size).to(layer.weight)

    @property
    def due(self) -> bool:
        """The factors are renewed in this step."""
        return self.param_groups[0]["step"] % self.every == 0

    def _keep(self, layer: Any, given: tuple[Tensor, ...], output: Tensor) -> None:
        if self.due and layer.weight in self.state and layer.training and output.requires_grad:
            self.seen[layer] = given[0].detach(), output

    def look(self, said: Iterable[Tensor]) -> None:
        """Renews the factors and their inverses, if due, from labels drawn from the network's own distribution, as
        the Fisher matrix wants (Martens & Grosse 2015, section 5).

        said: the logits (N, classes), or (N, classes, H, W), of each of the losses that are added.
        """
        if not self.due:
            return
        losses = [_drawn(logits) for logits in said]
        layers, (inputs, outputs) = list(self.seen), zip(*self.seen.values(), strict=True)
        self.seen.clear()
        gradients = torch.autograd.grad(losses, outputs, retain_graph=True)
        past = min(1 - 1 / (self.param_groups[0]["step"] // self.every + 1), self.average)  # section 5
        for layer, x, g in zip(layers, inputs, gradients, strict=True):
            state = self.state[layer.weight]
            for key, new in zip("AG", factors(layer, x, g), strict=True):
                state[key].mul_(past).add_(new, alpha=1 - past)
            for key, inverse in zip("AG", inverses(state["A"], state["G"], self.damping), strict=True):
                state[f"{key}_inverse"].copy_(inverse)  # in memory of one order, on which products' rounding depends

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyrefly: ignore[bad-override]
        """A step of all parameters."""
        rates, moves = {}, {}
        for group in self.param_groups:
            group["step"] += 1
            for parameter in group["params"]:
                if parameter.grad is not None:
                    rates[parameter] = group["lr"]
                    moves[parameter] = parameter.grad.add(parameter, alpha=group["weight_decay"])
        change = torch.zeros(())
        natural = [layer for layer in self.layers if layer.weight in moves]
        for layer in natural:
            weight, bias, state = layer.weight, layer.bias, self.state[layer.weight]
            gradient = moves[weight].flatten(1)
            gradient = gradient if bias is None else torch.cat([gradient, moves[bias][:, None]], 1)
            move = state["G_inverse"] @ gradient @ state["A_inverse"]
            change = change.to(move) + rates[weight] ** 2 * (move * gradient).sum()
            moves[weight] = move[:, : weight[0].numel()].view_as(weight)
            if bias is not None:
                moves[bias] = move[:, -1]
        scale = (self.clip / change.clamp(min=1e-30)).sqrt().clamp(max=1.0)
        for parameter in chain.from_iterable(layer.parameters(recurse=False) for layer in natural):
            moves[parameter] = moves[parameter] * scale  # within the trust region (Ba et al. 2017, section 5)
        for parameter, move in moves.items():
            momentum = self.state[parameter]["momentum"].mul_(self.momentum).add_(move)
            parameter.sub_(momentum * rates[parameter])


def _drawn(logits: Tensor) -> Tensor:
    """The loss of labels drawn for each image, or each pixel. Drawn apart from each other, P of them an image give a
    gradient whose square is P times their mean's Fisher matrix.
    """
    apart = logits.float().movedim(1, -1).flatten(0, -2)
    labels = apart.detach().softmax(1).nan_to_num(1.0).multinomial(1).squeeze(1)
    return functional.cross_entropy(apart, labels, reduction="sum") / (len(apart) / len(logits)) ** 0.5


def factors(layer: nn.Conv2d | nn.Linear, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """A and G of a batch of inputs x and derivatives g of each image's loss.

    A convolution's A is summed over its positions, its G averaged over them (Grosse & Martens 2016, theorem 1). So
    are those of a linear map at each pixel, x (N, C, H, W); torch's own has its features last.
    """
    x, g, images = x.to(layer.weight), g.to(layer.weight), len(x)
    if type(layer) is nn.Linear:
        x, g = (part.flatten(0, -2) for part in (x, g))
    elif x.dim() == 4:
        if isinstance(layer, nn.Conv2d):
            x = functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # pyrefly: ignore
        x, g = (part.flatten(2).mT.flatten(0, 1) for part in (x, g))
    if layer.bias is not None:
        x = torch.cat([x, x.new_ones(len(x), 1)], 1)
    return x.T @ x / images, g.T @ g / len(g)


def inverses(a: Tensor, g: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Of A + pi sqrt(damping) I and G + sqrt(damping) / pi I, pi^2 the ratio of their mean eigenvalues (Martens &
    Grosse 2015, section 6.3).
    """
    tiny = torch.finfo(a.dtype).tiny  # G is zero where no gradient comes back, and the ratio would overflow
    pi = a.diagonal().mean().clamp(min=tiny).sqrt() / g.diagonal().mean().clamp(min=tiny).sqrt()
    unit = damping**0.5
    return _inverse(a + pi * unit * torch.eye(len(a)).to(a)), _inverse(g + unit / pi * torch.eye(len(g)).to(g))


def _inverse(matrix: Tensor) -> Tensor:
    for kind in (matrix.dtype, torch.float64):  # to float32 it may have an eigenvalue of zero or less
        factor, failed = torch.linalg.cholesky_ex(matrix.to(kind))
        if not failed:
            return torch.cholesky_inverse(factor.to(matrix))
    return torch.full_like(matrix, torch.nan)  # of a run that diverges


def _plain(layer: nn.Conv2d | nn.Linear) -> bool:
    """Its weights are its parameters."""
    made = getattr(layer, "made", None)
    return made is None or made() is layer.weight
