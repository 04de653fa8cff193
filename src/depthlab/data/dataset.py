"""What a data set offers, and the stream of batches that all of them share."""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from importlib import import_module
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from depthlab.data.task import Task
from depthlab.errors import Mistake, within

Rows = TypeVar("Rows", bound=Tensor | Sequence)


class DataSet(Protocol):
    """Labelled images: an endless stream of training batches, and fixed splits to evaluate on."""

    labels: str
    """What has a label: `images`, or `pixels`."""
    task: Task
    """What the network learns, and how it is judged."""
    classes: int
    """How many classes; labels are 0 to classes - 1."""
    shape: tuple[int, int, int]
    """Channels, height, width of one image."""
    images: int
    """How many training images there are, after `validation` and `subset` are taken away."""
    splits: tuple[str, ...]
    """What can be evaluated: test, train (the clean training images), and validation if images are held out."""
    part: tuple[int, int]
    """(r, w): of each batch, in training and evaluation, this gives the slice r of w; (0, 1) gives all."""
    views: int
    """How many views of each image `evaluate` shows."""

    def size(self, split: str) -> int:
        """How many images a split holds; Mistake if there is no such split."""
        ...

    def batches(self, size: int, *, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches without end, from iteration `start` on.

        x is float32 (size, channels, height, width) in channels_last memory, y is int64 (size,), or (size, height,
        width) where each pixel has a label, both on the device. Each epoch is a permutation of the training images;
        epochs follow one another without a gap, so a batch may hold the end of one and the beginning of the next.
        Order and augmentation of epoch e are a pure function of (seed, e): starting at k gives bit for bit what an
        uninterrupted stream gives from k on. Mistake if a batch is larger than an epoch.
        """
        ...

    def evaluate(self, split: str, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over a split in order, unaugmented, as in `batches`; the last batch may be smaller, and is left
        out where nothing of it is in this part.

        x holds all `views` of the first image, all of the second and so on, about `size` in all, y a label an image.
        """
        ...

    def first(self, split: str, count: int) -> tuple[Tensor, Tensor]:
        """The first images of a split as one batch, unaugmented, one view of each."""
        ...


MEMBERS = [name for name in (*DataSet.__annotations__, *vars(DataSet)) if not name.startswith("_")]
"""What a data set has."""


def share(data: DataSet, part: tuple[int, int]) -> DataSet:
    """The same data set, seen by one of several processes: the slice r of w of each batch, for a part (r, w)."""
    mine = copy(data)
    mine.part = part
    return mine


def cut(rows: Rows, part: tuple[int, int]) -> Rows:
    """The slice r of w of a batch; all slices are equal where w divides it, else to within one row."""
    place, parts = part
    return rows[len(rows) * place // parts : len(rows) * (place + 1) // parts]  # pyrefly: ignore[bad-return]


def generator(*key: int) -> torch.Generator:
    """A CPU generator that is a pure function of the non-negative numbers in key, however alike two of one length."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


def stream(
    draw: Callable[[int], Tensor], images: int, size: int, start: int, part: tuple[int, int] = (0, 1)
) -> Iterator[Tensor]:
    """The rows of draw(0), draw(1), ... without end, `images` each, in cuts of `size` rows from cut `start` on, or a
    part of each cut.

    Mistake, at once and not at the first batch, if size is not in 1 to images.
    """
    within("recipe.batch", size, 1, images, f"the data holds {images} training images")
    epoch, skipped = divmod(start * size, images)

    def cuts(epoch: int) -> Iterator[Tensor]:
        rows = draw(epoch)[skipped:]
        while True:
            if len(rows) < size:
                epoch += 1
                rows = torch.cat([rows, draw(epoch)])
            yield cut(rows[:size], part)
            rows = rows[size:]

    return cuts(epoch)


def divide(images: int, validation: int, subset: int | None) -> tuple[range, range]:
    """The positions of the training and of the validation images among `images` training images.

    The last `validation` are held out (He et al. 2015, section 4.2: 45,000 and 5,000 of CIFAR-10); of what remains
    the first `subset` are trained on, all if None. Mistake if no training image would remain.
    """
    within("data.validation", validation, 0, images - 1, f"there are {images} training images")
    rest = images - validation
    if subset is not None:
        within("data.subset", subset, 1, rest, f"{rest} training images are left after data.validation={validation}")
    return range(subset or rest), range(rest, images)


def vision(module: str) -> Any:
    """The module torchvision.<module>, imported only where used; Mistake if it is absent or does not fit torch."""
    try:
        return import_module(f"torchvision.{module}")
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise Mistake(
            f"torchvision cannot be imported ({reason}): get the one that fits torch {torch.__version__}, "
            "pip install --upgrade torch torchvision"
        ) from error
