"""What is asked of a network: a label for each image, or one for each pixel; its loss and its errors."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

BORDER = 2
"""Rows and columns to a pixel of another class within which a pixel is of the border."""


class Task(Protocol):
    """What a network learns, `loss`, and how it is judged: of each batch by `counts`, which are summed over batches
    and processes, and of the sums by `metrics`. Its loss is the mean cross-entropy over all labels.
    """

    numbers: int
    """How many counts there are."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What training lowers. A network that says several times what it sees gives (times, N, classes, ...) in
        training; their losses are added (Newell et al. 2016, section 3.2, intermediate supervision).
        """
        ...

    def counts(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sums over a batch: (numbers,), the first three the loss, the share of wrong labels and 1 for each image."""
        ...

    def metrics(self, counts: Tensor) -> dict[str, float]:
        """Of sums of counts: `error`, the share of wrong labels (%), `loss`, and what else the task is judged by."""
        ...


class OfImages:
    """A label an image: logits (N, classes), labels (N,)."""

    numbers = 3

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Task.loss`."""
        first, *more = [functional.cross_entropy(said, labels) for said in times(logits, labels)]
        return sum(more, first)

    def counts(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Task.counts`."""
        loss = functional.cross_entropy(logits, labels, reduction="sum") / labels[0].numel()
        return torch.stack([loss, wrong(logits, labels), loss.new_tensor(len(labels))])

    def metrics(self, counts: Tensor) -> dict[str, float]:
        """See `Task.metrics`."""
        loss, missed, images = counts[:3].tolist()
        return {"error": 100 * missed / images, "loss": loss / images}


class OfPixels(OfImages):
    """A label a pixel, of `classes`: logits (N, classes, H, W), labels (N, H, W).

    Besides error and loss, all in percent: `iou`, intersection over union of the pixels that are and that are called
    of a class, in all images together, mean over the classes that are or are called (Everingham et al. 2010, section
    4.1.2); `border_error` and `border_iou`, the same of the border alone, the pixels within two rows and columns of
    one of another class, `interior_error` and `interior_iou` of all others, where there are any.
    """

    def __init__(self, classes: int) -> None:
        self.classes, self.numbers = classes, 3 + 2 * classes**2

    def counts(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See `Task.counts`."""
        pairs = self.classes * labels + logits.argmax(1)
        parts = [pairs.flatten(), pairs[border(labels)]]
        return torch.cat(
            [super().counts(logits, labels), *(part.bincount(minlength=self.classes**2) for part in parts)]
        )

    def metrics(self, counts: Tensor) -> dict[str, float]:
        """See `Task.metrics`."""
        found, (whole, edge) = super().metrics(counts), counts[3:].view(2, self.classes, self.classes)
        for name, confusion in (("", whole), ("border_", edge), ("interior_", whole - edge)):
            right, either = confusion.diagonal(), confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
            if confusion.any():
                found[f"{name}error"] = 100 - 100 * (right.sum() / confusion.sum()).item()
                found[f"{name}iou"] = 100 * (right / either)[either > 0].mean().item()
        return found


def times(logits: Tensor, labels: Tensor) -> Sequence[Tensor]:
    """The logits of each time that the network says what it sees, the last one the answer."""
    return [logits] if logits.dim() == labels.dim() + 1 else logits.unbind()


def wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """How many images are labelled wrongly; where each pixel has a label, the sum of the images' shares of those."""
    return (times(logits, labels)[-1].argmax(1) != labels).sum() / labels[0].numel()


def border(labels: Tensor) -> Tensor:
    """Whether each pixel of (N, H, W) has one of another class at most two rows and two columns away."""
    side, values = 2 * BORDER + 1, labels.float()[:, None]
    high, low = (sign * functional.max_pool2d(sign * values, side, 1, BORDER) for sign in (1, -1))
    return (high != low)[:, 0]
