#!/bin/sh
# nngeometry 0.4 with torch 2.14.1: a layer that the network calls twice gets a wrong Fisher matrix, and no word.
# Guess: the derivative by a weight is the sum over its uses, and its Fisher is made of that sum; or it is refused, as a
#   parameter that two layers share is.
# Seen (2026-11-28, float64): of one 3x3 convolution called two times in a row the Fisher diagonal is off by 29 %, its
#   mean is 0.61 of the right one. What is given is, to rounding, the sum of two Fishers, one a call, each made with the
#   input of the last call. Two layers with weights of their own: right to 1e-15.
# Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy==2.4.2 nngeometry==0.4
"$folder/env/bin/python" -W ignore - <<'PYTHON'
import torch
from nngeometry.metrics import FIM
from nngeometry.object import PMatDiag
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_default_dtype(torch.float64)


class Net(nn.Module):
    def __init__(self, twice):
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3, padding=1)
        self.second = None if twice else nn.Conv2d(2, 2, 3, padding=1)
        self.head = nn.Linear(2 * 36, 3)

    def forward(self, x):
        x = self.first(x).relu()
        x = (self.second or self.first)(x).relu()
        return self.head(x.flatten(1))


def fishers(net):
    """nngeometry's diagonal, and one made from Jacobians, image by image."""
    loader = DataLoader(TensorDataset(x, y), batch_size=len(x))
    found = FIM(model=net, loader=loader, representation=PMatDiag, variant="classif_logits", device="cpu").get_diag()
    exact = torch.zeros_like(found)
    for image in x:
        z = net(image[None])[0]
        rows = [torch.autograd.grad(out, [*net.parameters()], retain_graph=True) for out in z]
        jacobian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
        p = z.softmax(0).detach()
        exact += torch.einsum("ap,ab,bp->p", jacobian, p.diag() - p.outer(p), jacobian) / len(x)
    return found, exact


torch.manual_seed(0)
x, y = torch.randn(5, 2, 6, 6), torch.randint(0, 3, (5,))
apart = Net(twice=False)
found, exact = fishers(apart)
print(f"two layers: off by {((found - exact).norm() / exact.norm()).item():.0e}")
assert torch.allclose(found, exact, rtol=1e-10)

twice = Net(twice=True)
found, exact = fishers(twice)
count = sum(p.numel() for p in twice.first.parameters())
off = ((found - exact)[:count].norm() / exact[:count].norm()).item()
print(f"one layer, called twice: off by {100 * off:.0f} %, mean {(found[:count].mean() / exact[:count].mean()).item():.2f} of the right one")
assert off > 0.1

parts = torch.zeros_like(twice.first.weight)
for image in x:
    first = twice.first(image[None])
    between = first.relu()
    second = twice.first(between)
    z = twice.head(second.relu().flatten(1))[0]
    p = z.softmax(0).detach()
    calls = [torch.autograd.grad(out, [first, second], retain_graph=True) for out in z]
    for call in (0, 1):
        rows = [nn.grad.conv2d_weight(between, parts.shape, upstream[call], padding=1) for upstream in calls]
        jacobian = torch.stack(rows)
        parts += torch.einsum("aoikl,ab,boikl->oikl", jacobian, p.diag() - p.outer(p), jacobian) / len(x)
assert torch.allclose(found[: parts.numel()], parts.flatten(), rtol=1e-10)
print("it is the sum of one Fisher a call, both with the last call's input")
PYTHON
