"""Which libraries hold optimisers that work on convolutions, with and without norm: `python libraries.py`.

Each takes 60 steps of plain-20 on digits at its own default rate (SGD: 0.01), and 5 more from a state that was saved
and read by weights_only. Prints a table: the loss after 60 steps with batch norm and without any (chance: 2.30), a
step's time relative to SGD's, taking turns, and whether the steps from the saved state are the same, bit for bit.
Needs `pip install pytorch-optimizer heavyball singd curvlinops-for-pytorch nngeometry backpack-for-pytorch`.
"""

import io
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import depthlab
from depthlab.data.handwritten import digits
from depthlab.training.kfac import factors

STEPS, MORE, ROUNDS = 60, 5, 15
IMAGES = digits(torch.device("cpu"), augment=False, normalize="channel", validation=0, subset=None)
BATCHES = [*zip(*(part.split(64) for part in IMAGES.first("train", 64 * 22)), strict=True)]
Made = Callable[[nn.Module], torch.optim.Optimizer]


def muon_groups(net: nn.Module) -> list[dict[str, Any]]:
    """Weights of two dimensions and more for Muon, the rest for its Adam."""
    kinds = {True: [p for p in net.parameters() if p.dim() > 1], False: [p for p in net.parameters() if p.dim() < 2]}
    return [{"params": parameters, "use_muon": kind} for kind, parameters in kinds.items() if parameters]


def candidates() -> dict[str, Made]:
    """Each as its library has it."""
    import heavyball
    import pytorch_optimizer as library
    from singd.optim.optimizer import SINGD

    heavyball.utils.compile_mode = None
    return {
        "SGD, torch": lambda net: torch.optim.SGD(net.parameters(), 0.01, 0.9),
        "AdamW, torch": lambda net: torch.optim.AdamW(net.parameters()),
        "Muon, torch": lambda net: torch.optim.Muon([p for p in net.parameters() if p.dim() > 1]),
        "Muon, pytorch-optimizer": lambda net: library.Muon(muon_groups(net)),
        "SOAP, pytorch-optimizer": lambda net: library.SOAP(net.parameters()),
        "Shampoo, pytorch-optimizer": lambda net: library.Shampoo(net.parameters()),
        "ScalableShampoo, pytorch-optimizer": lambda net: library.ScalableShampoo(net.parameters()),
        "Kron, pytorch-optimizer": lambda net: library.Kron(net.parameters()),
        "Muon, heavyball": lambda net: heavyball.Muon(net.parameters()),
        "SOAP, heavyball": lambda net: heavyball.SOAP(net.parameters()),
        "PSGDKron, heavyball": lambda net: heavyball.PSGDKron(net.parameters()),
        "SINGD, singd": lambda net: SINGD(net),
    }


class Training:
    """One network and one optimiser; all see the same batches, from the same start."""

    def __init__(self, norm: str, made: Made) -> None:
        self.net = depthlab.network(f"depth=20 skip=none norm={norm} data=digits")
        self.optimizer, self.batches = made(self.net), cycle(BATCHES)

    def step(self) -> float:
        x, y = next(self.batches)
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(self.net(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def seconds(self, steps: int = 3) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        return time.perf_counter() - start


def learns(norm: str, made: Made) -> str:
    """The loss, mean of the last ten steps."""
    training = Training(norm, made)
    return f"{statistics.mean([training.step() for _ in range(STEPS)][-10:]):.2f}"


def relative(made: Made, usual: Made) -> str:
    """A step's time, median ratio of turns."""
    one, other = Training("batch", made), Training("batch", usual)
    ratios = [one.seconds() / other.seconds() for _ in range(ROUNDS)]
    return f"{statistics.median(ratios[3:]):.2f}"


def goes_on(made: Made) -> str:
    """Whether steps from a state that went through a file are those of one that did not."""
    first, second = Training("batch", made), Training("batch", made)
    for _ in range(STEPS // 5):
        first.step()
    file = io.BytesIO()
    torch.save((first.net.state_dict(), first.optimizer.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    second.net.load_state_dict(weights)
    second.optimizer.load_state_dict(state)
    first.batches, second.batches = cycle(BATCHES), cycle(BATCHES)
    return "yes" if [first.step() for _ in range(MORE)] == [second.step() for _ in range(MORE)] else "no"


def curvature(norm: str) -> dict[str, Callable[[], object]]:
    """K-FAC's matrices of the convolutions and of the last layer, by libraries that make them, on one batch."""
    import backpack
    import curvlinops
    from backpack.extensions import KFAC
    from nngeometry.layercollection import LayerCollection
    from nngeometry.metrics import FIM
    from nngeometry.object import PMatKFAC
    from torch.utils.data import DataLoader, TensorDataset

    net = depthlab.network(f"depth=20 skip=none norm={norm} data=digits")
    x, y = BATCHES[0]
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    parameters = [p for layer in layers for p in layer.parameters()]

    def by_curvlinops() -> object:
        operator = curvlinops.KFACLinearOperator(net, nn.CrossEntropyLoss(), parameters, [(x, y)])
        return curvlinops.KFACInverseLinearOperator(operator, damping=0.01)

    def by_nngeometry() -> object:
        collection = LayerCollection()
        for layer in layers:
            collection.add_layer_from_model(net, layer)
        loader = DataLoader(TensorDataset(x, y), batch_size=len(x))
        return FIM(net, loader, PMatKFAC, layer_collection=collection)

    def by_backpack() -> object:
        extended, loss = backpack.extend(net), backpack.extend(nn.CrossEntropyLoss())
        with backpack.backpack(KFAC()):
            loss(extended(x), y).backward()
        return [p.kfac for p in parameters]

    return {"curvlinops": by_curvlinops, "nngeometry": by_nngeometry, "backpack": by_backpack}


def ours_against_curvlinops() -> float:
    """The largest relative difference of a layer's Kronecker product, depthlab's from curvlinops', on one batch in
    float64, by the gradients of the true labels.
    """
    import curvlinops

    net = depthlab.network("depth=8 width=2 skip=none norm=none data=digits").double()
    x, y = BATCHES[0][0].double(), BATCHES[0][1]
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    weights, loss = [layer.weight for layer in layers], nn.CrossEntropyLoss(reduction="sum")
    operator = curvlinops.KFACLinearOperator(net, loss, weights, [(x, y)], fisher_type="empirical")
    dense, seen, worst, at = operator @ torch.eye(operator.shape[1], dtype=torch.float64), {}, 0.0, 0
    for layer in layers:
        layer.register_forward_hook(lambda m, given, output: seen.update({m: (given[0].detach(), output)}))
    value = loss(net(x), y)
    for layer, g in zip(layers, torch.autograd.grad(value, [seen[layer][1] for layer in layers]), strict=True):
        a, g = factors(layer, seen[layer][0], g)
        inputs, size = layer.weight[0].numel(), layer.weight.numel()
        product = len(x) * torch.kron(g, a[:inputs, :inputs])  # a sum over images, without the bias
        block = dense[at : at + size, at : at + size]
        worst, at = max(worst, ((product - block).norm() / block.norm()).item()), at + size
    return worst


def tried(call: Callable[[], object]) -> str:
    """What comes out, or the first line of the error."""
    try:
        value = call()
    except Exception as error:  # of libraries, each of its own kind
        return f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
    return value if isinstance(value, str) else "yes"


def main() -> None:
    """Prints both tables."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    made = candidates()
    usual = made["SGD, torch"]
    print("| optimiser | loss, batch norm | no norm | a step's time | goes on bit for bit |\n|---|---|---|---|---|")
    for name, make in made.items():
        calls = [partial(learns, "batch", make), partial(learns, "none", make)]
        calls += [partial(relative, make, usual), partial(goes_on, make)]
        print(f"| {name} | {' | '.join(tried(call) for call in calls)} |", flush=True)
    print("\n| K-FAC's matrices | batch norm | no norm |\n|---|---|---|")
    for name in curvature("none"):
        print(f"| {name} | {tried(curvature('batch')[name])} | {tried(curvature('none')[name])} |", flush=True)
    print(f"\ndepthlab's matrices against curvlinops': {ours_against_curvlinops():.1g}")


if __name__ == "__main__":
    main()
