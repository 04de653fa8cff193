#!/bin/sh
# backpack-for-pytorch 1.7.1, nngeometry 0.4, curvlinops-for-pytorch 3.0.1 with torch 2.14.1: a convolution whose border
#   is not zeros (padding_mode="circular") silently gets a wrong curvature.
# Guess: what such a library gives equals brute force over autograd, or it refuses the layer. Tried on
#   24 layers, BackPACK and nngeometry were right to 2e-15 or raised an error on all others but a layer called twice.
# Seen (2026-11-28, float64): where zeros surround the image all agree to 1e-15. With a circular border BackPACK's
#   per-sample gradients are off by 41 %: they do not add up to the gradient that the same backward pass leaves beside
#   them. nngeometry's Fisher diagonal is off by 29 %, curvlinops' K-FAC block of the layer, exact here as it sees one
#   patch, by 84 %. With padding="same", a border of one around a 3x3 filter, BackPACK is off by 140 %.
# Fails if one of them becomes right, or refuses.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy==2.4.2 backpack-for-pytorch==1.7.1 nngeometry==0.4 \
    curvlinops-for-pytorch==3.0.1
"$folder/env/bin/python" -W ignore - <<'PYTHON'
import torch
from backpack import backpack, extend, extensions
from curvlinops import GGNLinearOperator, KFACLinearOperator
from nngeometry.metrics import FIM
from nngeometry.object import PMatDiag
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_default_dtype(torch.float64)


def network(size, filter, **border):
    torch.manual_seed(0)
    left = (size + 2 * (border["padding"] == 1 or border["padding"] == "same") - filter + 1) ** 2
    return nn.Sequential(nn.Conv2d(2, 4, filter, **border), nn.Flatten(), nn.Linear(4 * left, 3))


def off(found, exact):
    return ((found - exact).norm() / exact.norm()).item()


def backpacks(**border):
    """Its per-sample gradients of the filters, added up, against the gradient that torch leaves beside them."""
    net, loss = extend(network(6, 3, **border)), extend(nn.CrossEntropyLoss(reduction="sum"))
    with backpack(extensions.BatchGrad()):
        loss(net(x), y).backward()
    return off(net[0].weight.grad_batch.sum(0), net[0].weight.grad)


def nngeometrys(**border):
    """Its diagonal of the Fisher matrix of the filters against one made from Jacobians, image by image."""
    net = network(6, 3, **border)
    loader = DataLoader(TensorDataset(x, y), batch_size=len(x))
    fisher = FIM(model=net, loader=loader, representation=PMatDiag, variant="classif_logits", device="cpu")
    exact = torch.zeros_like(net[0].weight)
    for image in x:
        z = net(image[None])[0]
        jacobian = torch.stack([torch.autograd.grad(out, net[0].weight, retain_graph=True)[0] for out in z])
        p = z.softmax(0).detach()
        exact += torch.einsum("aoikl,ab,boikl->oikl", jacobian, p.diag() - p.outer(p), jacobian) / len(x)
    return off(fisher.get_diag()[: exact.numel()], exact.flatten())


def curvlinopss(**border):
    """Its K-FAC block of filters that see one patch, on one image, against its own exact Gauss-Newton matrix."""
    net, loss, data = network(6, 8, **border), nn.CrossEntropyLoss(), [(x[:1], y[:1])]
    weight = [net[0].weight]
    exact = GGNLinearOperator(net, loss, weight, data)
    kfac = KFACLinearOperator(net, loss, weight, data, fisher_type="type-2")
    eye = torch.eye(weight[0].numel())
    return off(kfac @ eye, exact @ eye)


torch.manual_seed(1)
x, y = torch.randn(5, 2, 6, 6), torch.randint(0, 3, (5,))
for name, measure in {"BackPACK": backpacks, "nngeometry": nngeometrys, "curvlinops": curvlinopss}.items():
    zeros, circular = measure(padding=1), measure(padding=1, padding_mode="circular")
    print(f"{name:10} off by {zeros:.0e} with zeros as border, {100 * circular:.0f} % with a circular one")
    assert zeros < 1e-12 and circular > 0.1
same = backpacks(padding="same")
print(f"BackPACK   off by {100 * same:.0f} % with padding='same'")
assert same > 0.1
PYTHON
