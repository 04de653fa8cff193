"""The loss on a slice of weight space: how smooth, and how wide, the ground is on which a network stands."""

import math

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from depthlab.errors import Mistake
from depthlab.machine.memory import at_once
from depthlab.network.resnet import Network
from depthlab.probes.inside import Values, progress

Direction = dict[str, Tensor]
"""A change of weights, by the names of the parameters; what is not in it stays."""


@torch.no_grad()
def loss_surface(
    net: Network, x: Tensor, y: Tensor, rate: float, *, points: int, line_points: int, reach: float, seed: int
) -> Values:
    """Cross-entropy and error (%) at theta + a delta + b eta, for a and b from -`reach` to `reach`, where delta and
    eta are random, filter-normalised directions drawn from `seed` (Li et al. 2018, sections 3 and 4).

    In evaluation mode, so that the loss is a function of the weights alone: in training mode it would depend on which
    images stand in a batch, and batch norm would take back what a step does to a filter's scale.

    `loss`, `error`: on a grid of `points` each way, a row for each b in `beta`, a column for each a in `alpha`;
    `line_loss`, `line_error`: at `line_points` places a in `line`, b = 0. `mean_log_loss`: mean of log10 of the loss
    on the grid. `basin`: share (%) of the grid where the loss is below log(classes), that of one who guesses.
    `nonconvex`: share (%) of the inner grid points where the slice curves downwards in some direction, by second
    differences; the slice's curvatures are averages of the whole space's, so that there the loss, too, is not convex
    (section 6). Costs points^2 + line_points evaluations. Raises Mistake on fewer than 3 points or 1 line point.
    """
    for key, value, least in (("points", points, 3), ("line_points", line_points, 1)):
        if value < least:
            raise Mistake(f"probe.loss_surface.{key}={value}: at least {least}")
    net.eval()
    draw = torch.Generator().manual_seed(seed)
    delta, eta = filter_normalised(net, draw), filter_normalised(net, draw)
    axis, line = (torch.linspace(-reach, reach, count).tolist() for count in (points, line_points))
    places = [(a, b) for b in axis for a in axis] + [(a, 0.0) for a in line]
    bar = progress(places, "loss_surface", "points")
    found = torch.tensor([evaluated(net, x, y, delta, a, eta, b) for a, b in bar], dtype=torch.float64)
    grid, (line_loss, line_error) = found[: points**2].view(points, points, 2), found[points**2 :].T
    loss, error = grid.unbind(2)
    low, _ = curvatures(loss)
    return {
        "alpha": axis,
        "beta": axis,
        "loss": loss.tolist(),
        "error": error.tolist(),
        "line": line,
        "line_loss": line_loss.tolist(),
        "line_error": line_error.tolist(),
        "mean_log_loss": loss.clamp(min=torch.finfo(loss.dtype).tiny).log10().mean().item(),
        "basin": 100 * (loss < math.log(net.head.out_features)).double().mean().item(),
        "nonconvex": 100 * (low < 0).double().mean().item(),
    }


def filter_normalised(net: Network, draw: torch.Generator) -> Direction:
    """Gaussian, each filter scaled to the norm of the network's: d_ij |theta_ij| / |d_ij| for filter j of layer i (Li
    et al. 2018, section 4), a row of a linear map being a filter; biases and the parameters of norms stay.
    """
    found = {}
    for name, weight in net.named_parameters():
        if weight.dim() > 1:
            d = torch.randn(weight.shape, generator=draw).to(weight)
            norms, own = (tensor.flatten(1).norm(dim=1) for tensor in (weight.detach(), d))
            found[name] = d * (norms / own).view(-1, *[1] * (d.dim() - 1))
    return found


def evaluated(
    net: Network, x: Tensor, y: Tensor, delta: Direction, a: float, eta: Direction, b: float
) -> tuple[float, float]:
    """Mean cross-entropy and error (%) of the network at theta + a delta + b eta."""
    weights = dict(net.named_parameters())
    moved = {name: weights[name] + a * delta[name] + b * eta[name] for name in delta}
    logits = torch.cat([functional_call(net, moved, (part,)) for part in x.split(at_once(x.shape))]).double()
    return functional.cross_entropy(logits, y).item(), 100 * (logits.argmax(1) != y).double().mean().item()


def curvatures(values: Tensor) -> tuple[Tensor, Tensor]:
    """The smaller and the larger eigenvalue of the matrix of second differences at each inner point of a grid with
    step 1: (n, m) -> two of (n - 2, m - 2).
    """
    inner, rows, columns = values[1:-1, 1:-1], values[:, 1:-1], values[1:-1]
    vv = rows[2:] - 2 * inner + rows[:-2]
    uu = columns[:, 2:] - 2 * inner + columns[:, :-2]
    uv = (values[2:, 2:] - values[2:, :-2] - values[:-2, 2:] + values[:-2, :-2]) / 4
    middle, half = (uu + vv) / 2, torch.hypot((uu - vv) / 2, uv)
    return middle - half, middle + half
