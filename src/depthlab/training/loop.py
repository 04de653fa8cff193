"""The training loop of He et al. 2015, section 4.2: batch, rate of this iteration, loss, backward, step; report."""

import io
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from depthlab.data.dataset import DataSet
from depthlab.data.task import Task, times, wrong
from depthlab.machine.memory import at_once
from depthlab.training.distributed import ALONE, Ranks
from depthlab.training.recipe import Recipe, Schedule, learning_rate, still_warm

Metrics = dict[str, float]


@dataclass
class State:
    """All on which the next iteration depends, save the random state."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    """Iterations done."""
    warm: bool = True
    """The warm-up has not ended."""
    window: Tensor | None = None
    """Since the last evaluation: sum of the losses, images wrong, images seen; the first iteration with a loss that
    is not finite, or -1. In float64 on the device, so that no step waits for it. Each process counts its own."""

    def report(self, ranks: Ranks = ALONE) -> Metrics:
        """train_error (%) and train_loss since the last evaluation, lr, and diverged_at if a loss was not finite; of
        all `ranks`, which then ask together.
        """
        if self.window is None:
            return {}
        loss, wrong, images, diverged_at = _whole(ranks.gathered(self.window)).tolist()
        metrics = {"train_error": 100 * wrong / images, "train_loss": loss / images}
        metrics["lr"] = self.optimizer.param_groups[0]["lr"]
        return metrics | ({"diverged_at": int(diverged_at)} if diverged_at >= 0 else {})

    def hand_out(self, ranks: Ranks) -> None:
        """All processes take over the first's state, from which they start."""
        if ranks.world > 1:
            file, device = io.BytesIO(), next(self.net.parameters()).device
            if not ranks.rank:
                torch.save(self.to_dict(), file)
            said = ranks.first_says(file.getvalue())
            if ranks.rank:
                self.load(torch.load(io.BytesIO(said), map_location=device, weights_only=True))
                self.window = None if self.window is None else nothing(device)

    def hand_in(self, ranks: Ranks) -> None:
        """The first process takes over the counts of all, as for a checkpoint; the others' begin anew."""
        if self.window is not None and ranks.world > 1:
            whole = _whole(ranks.gathered(self.window))
            self.window = nothing(whole.device) if ranks.rank else whole

    @property
    def next_record(self) -> int:
        """The first iteration after which an evaluation is still to come; what was recorded from there on is void."""
        return self.step + (self.window is None and self.step > 0)

    def to_dict(self) -> dict[str, Any]:
        """Everything as a dict that `torch.load(weights_only=True)` takes."""
        parts = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
        return parts | {"step": self.step, "warm": self.warm, "window": self.window}

    def load(self, saved: dict[str, Any]) -> None:
        """Puts back what `to_dict` gave, value by value, into memory of our own, which has the network's shapes
        whatever a file from elsewhere says of its tensors. Raises anything on a file whose shapes are others.
        """
        wanted = self._after_a_step()
        self.net.load_state_dict(dict(saved["net"]))  # values alone, without what a file says of how to load them
        self.optimizer.load_state_dict(saved["optimizer"])
        for parameter, kept in self.optimizer.state.items():
            self.optimizer.state[parameter] = _ours(kept, wanted[parameter])
        self.step, self.warm, window = int(saved["step"]), bool(saved["warm"]), saved["window"]
        self.window = None if window is None else nothing(window.device).copy_(window)

    def _after_a_step(self) -> dict[Tensor, Any]:
        """The optimiser's state as it is after a step, for its form; moves the weights."""
        for parameter in self.net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return dict(self.optimizer.state)


def _ours(saved: Any, form: Any) -> Any:
    """A saved value in memory of our own. Raises ValueError where it has not the form of a value that we know."""
    if isinstance(form, Tensor):
        return torch.empty_like(form).copy_(saved.view_as(form))
    if isinstance(form, dict) and saved.keys() == form.keys():
        return {key: _ours(saved[key], form[key]) for key in form}
    if isinstance(form, list) and len(saved) == len(form):
        return [_ours(*pair) for pair in zip(saved, form, strict=True)]
    if isinstance(form, dict | list) or type(saved) is not type(form):
        raise ValueError(f"of the optimiser: {type(saved).__name__} instead of {type(form).__name__}")
    return saved


def train(
    state: State,
    data: DataSet,
    recipe: Recipe,
    schedule: Schedule,
    *,
    depth: int,
    steps: int,
    seed: int,
    splits: tuple[str, ...],
    autocast: Callable[[], AbstractContextManager],
    ranks: Ranks = ALONE,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Metrics | None]:
    """Trains until `steps` iterations are done, evaluating the `splits` after each epoch and at the end.

    A last epoch that would not be whole, to a batch, is counted to the one before, so that the last errors are never
    those of a few batches.

    Yields after each iteration, and between the batches of an evaluation, None; after each evaluation the metrics:
    train_error, train_loss (running, on the augmented batches since the last evaluation), for each split its `_error`
    (%) and `_loss` and what else the data's task measures, lr, and `diverged_at` where a loss was not finite, after
    which it ends. Between any two yields before that the caller may look, save `state`, or stop; started again with
    that state, it goes on as if never stopped. With several `ranks`, `data` is this one's part; all yield as often,
    and the same metrics. `forward` maps a batch to logits in training; None: the network itself.
    """
    batches = data.batches(recipe.batch, seed=seed, start=state.step)
    forward = forward or ranks.parallel(state.net)
    size = at_once(data.shape, recipe.batch // ranks.world) * ranks.world

    def error() -> float:
        return state.report(ranks).get("train_error", math.nan)

    while True:
        seen, left = state.step * recipe.batch, (steps - state.step) * recipe.batch
        epoch_ends = seen // data.images > (seen - recipe.batch) // data.images and left > data.images - recipe.batch
        if steps == 0 or (state.window is not None and (epoch_ends or left == 0)):
            metrics = state.report(ranks)
            ranks.level(state.net)
            for split in splits:
                name = "clean_train" if split == "train" else split
                count = data.size(split) / max(1, size // data.views)
                for result in evaluate(state.net, data.evaluate(split, size), data.task, autocast, ranks, count):
                    if result is None:
                        yield None
                    else:
                        metrics |= {f"{name}_{key}": value for key, value in result.items()}
            state.window = None
            if left == 0 < steps and not all(map(math.isfinite, metrics.values())):  # the last step did it
                metrics.setdefault("diverged_at", state.step)
            yield metrics
            if "diverged_at" in metrics:
                return
        if state.step >= steps:
            return

        images, labels = next(batches)
        set_rate(state, recipe, schedule, depth, steps, error)

        state.net.train()
        with autocast():
            logits = forward(images)
            loss = data.task.loss(logits, labels)
        if look := getattr(state.optimizer, "look", None):  # a method of second order's, at the curvature
            look(times(logits, labels))
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()

        if state.window is None:
            state.window = nothing(images.device)
        _count(state.window, loss.detach(), logits.detach(), labels, state.step)
        state.step += 1
        yield None


def set_rate(
    state: State, recipe: Recipe, schedule: Schedule, depth: int, steps: int, error: Callable[[], float]
) -> None:
    """Gives each group of the optimiser its rate of the next iteration; `error`: the training error (%) so far."""
    state.warm = state.warm and still_warm(recipe, depth, state.step, steps, error)
    rate = learning_rate(recipe, schedule, state.step, steps, warm=state.warm)
    for group in state.optimizer.param_groups:
        group["lr"] = (rate if state.warm or group.get("scheduled", True) else recipe.rate) * group.get("factor", 1)


def nothing(device: torch.device) -> Tensor:
    """A window in which nothing has been counted."""
    return torch.tensor([0.0, 0.0, 0.0, -1.0], dtype=torch.float64, device=device)


def _whole(windows: Tensor) -> Tensor:
    """The windows of all processes, one a row, as one."""
    whole, diverged_at = windows.sum(0), windows[windows[:, 3] >= 0, 3]
    whole[3] = diverged_at.min() if len(diverged_at) else -1
    return whole


def _count(window: Tensor, loss: Tensor, logits: Tensor, labels: Tensor, step: int) -> None:
    window[0] += loss * len(labels)
    window[1] += wrong(logits, labels)
    window[2] += len(labels)
    window[3] = torch.where(loss.isfinite() | (window[3] >= 0), window[3], step)


@torch.no_grad()
def evaluate(
    net: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    task: Task,
    autocast: Callable[[], AbstractContextManager],
    ranks: Ranks = ALONE,
    count: float = 0,
) -> Iterator[Metrics | None]:
    """The task's metrics of the fixed network, `error` (%) and mean `loss` first: None after each batch, they at the
    end, of all `ranks`; `count`: the batches of the one that has the most.

    Where there are more images than labels, each label is that of as many views, one after another, whose softmax
    outputs are averaged (Krizhevsky et al. 2012, section 4.1, the 10-crop testing of He et al. 2015).
    """
    net.eval()
    total = torch.zeros(task.numbers, dtype=torch.float64, device=next(net.parameters()).device)
    for batch, _ in zip_longest(batches, range(math.ceil(count))):
        if batch is not None:
            images, labels = batch
            with autocast():
                logits = net(images).float()
            if (views := len(images) // len(labels)) > 1:
                logits = logits.log_softmax(1).unflatten(0, (-1, views)).logsumexp(1) - math.log(views)
            total += task.counts(logits, labels)
        yield None
    yield task.metrics(ranks.gathered(total).sum(0))
