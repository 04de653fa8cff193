#!/bin/sh
# loss-landscapes 3.0.6 with torch 2.14.1: every second row of a plane is a step out of line; a convex loss looks rough.
# Guess: random_plane(model, loss, steps=20) is the loss on a regular grid around the model. A convex loss, such as that
#   of softmax regression, is then convex along each row and each column of the picture.
# Seen (2026-11-30): along the rows yes, but of the second differences along the columns half are negative: a
#   washboard. The rows are walked to and fro, and on the way back each value is that of the place one step before its
#   own. The same in planar_interpolation. On the grid without these shifts, computed beside it, none is negative. So
#   "how convex is the loss around the network?" is answered by the walk. And the "maximum distance" divides:
#   distance=10 shows a tenth of what distance=1 shows. (That directions are drawn from [0, 1] is the package's issue 4.)
# Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy==2.4.2 scikit-learn==1.8.0 loss-landscapes==3.0.6
"$folder/env/bin/python" -W ignore - <<'PYTHON'
from copy import deepcopy

import numpy as np
import torch
from loss_landscapes import planar_interpolation, random_plane
from loss_landscapes.metrics.metric import Metric
from sklearn.datasets import load_digits
from torch import nn

x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
x = x / 16


class Loss(Metric):
    """The loss, and where it was asked for."""

    def __init__(self):
        super().__init__()
        self.places = []

    def __call__(self, model):
        weights = model.get_module_parameters().parameters
        self.places.append(torch.cat([part.flatten() for part in weights]).detach().clone())
        with torch.no_grad():
            return nn.functional.cross_entropy(model.forward(x), y).item(), len(self.places) - 1


def rough(values):
    """The share of second differences along the columns and along the rows that are negative."""
    return [float((np.diff(values, 2, axis=axis) < 0).mean()) for axis in (0, 1)]


torch.manual_seed(0)
net = nn.Linear(64, 10).double()
optimizer = torch.optim.LBFGS(net.parameters(), max_iter=20)


def loss():
    optimizer.zero_grad()
    found = nn.functional.cross_entropy(net(x), y)
    found.backward()
    return found


optimizer.step(loss)
print("loss of the trained model", round(loss().item(), 4))
ends, there = [nn.Linear(64, 10).double() for _ in range(2)], deepcopy(net)
planes = {
    "random_plane": lambda loss: random_plane(net, loss, distance=1, steps=20, deepcopy_model=True),
    "random_plane, distance=10": lambda loss: random_plane(net, loss, distance=10, steps=20, deepcopy_model=True),
    "planar_interpolation": lambda loss: planar_interpolation(net, *ends, loss, steps=20, deepcopy_model=True),
}
lengths = []
for name, plane in planes.items():
    metric = Loss()
    losses, order = np.moveaxis(plane(metric), -1, 0)
    places = torch.stack(metric.places)[torch.tensor(order).long()]
    two, one = places[0, 1] - places[0, 0], (places[2, 0] - places[0, 0]) / 2
    steps = torch.arange(20)
    grid = places[0, 0] + steps[:, None, None] * one + steps[:, None] * two
    shifts = ((places - grid) @ two / (two @ two)).mean(1).numpy().round(3) + 0.0
    regular = np.empty((20, 20))
    for place in np.ndindex(20, 20):
        nn.utils.vector_to_parameters(grid[place], there.parameters())
        regular[place] = nn.functional.cross_entropy(there(x), y).item()
    lengths.append(19 * two.norm().item())
    print(f"{name}: rows are shifted by", *shifts[:4], f"... steps; a row is {lengths[-1]:.3g} long")
    print(f"  not convex: {rough(losses)} of columns and rows; on the grid without shifts: {rough(regular)}")
    assert (shifts == [0, -1] * 10).all()
    assert rough(regular) == [0, 0] and rough(losses)[1] == 0 and 0.45 < rough(losses)[0] < 0.55
assert abs(lengths[0] / lengths[1] - 10) < 1e-6
print("as described")
PYTHON
