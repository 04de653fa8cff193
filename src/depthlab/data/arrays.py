"""Data sets that are held whole on the device as bytes; a batch is gathered, normalised and augmented there."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from depthlab.data.dataset import cut, divide, generator, stream
from depthlab.data.task import OfImages, OfPixels, Task
from depthlab.errors import one_of, within

Normalize = Literal["pixel_mean", "channel", "imagenet", "none"]
MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's training images by channel, pixels in 0 to 1."""
DEVIATION = (0.229, 0.224, 0.225)
"""Their standard deviation."""
PAD = 4
"""Pixels of zeros around an image before a crop is cut from it (He et al. 2015, section 4.2)."""


class Arrays:
    """A `DataSet` of uint8 images (n, height, width, channels) and integer labels, (n,) or one a pixel, on `device`.

    A pixel's value is byte / scale, from which the statistics of the training images in use are taken away
    (`statistics`). With augment, training images are cropped and flipped (`crop`). The last `validation` training
    images are held out; the first `subset` of the rest and the first `test_subset` test images are used, all if
    None. Mistake if any of these is out of range.
    """

    labels = "images"
    task: Task = OfImages()
    part, views = (0, 1), 1

    def __init__(
        self,
        train_x: np.ndarray | Tensor,
        train_y: np.ndarray | Tensor,
        test_x: np.ndarray | Tensor,
        test_y: np.ndarray | Tensor,
        *,
        classes: int,
        device: torch.device,
        scale: int,
        augment: bool,
        normalize: Normalize,
        validation: int,
        subset: int | None,
        test_subset: int | None,
    ) -> None:
        if test_subset is not None:
            within("data.test_subset", test_subset, 1, len(test_x), f"there are {len(test_x)} test images")
        train, held_out = divide(len(train_x), validation, subset)
        parts = {
            "test": (test_x[:test_subset], test_y[:test_subset]),
            "train": (train_x[: len(train)], train_y[: len(train)]),
            "validation": (train_x[held_out.start :], train_y[held_out.start :]),
        }
        self._parts = {
            split: (torch.as_tensor(x, device=device), torch.as_tensor(y, dtype=torch.int64, device=device))
            for split, (x, y) in parts.items()
            if len(x)
        }
        self.splits = tuple(self._parts)
        self.images, height, width, channels = parts["train"][0].shape
        self.shape = (channels, height, width)
        self.classes = classes
        self._device, self._augment = device, augment
        self._scale = torch.tensor(scale, dtype=torch.float32)  # whatever the default dtype is
        mean, deviation = statistics(torch.as_tensor(parts["train"][0]), scale, normalize)
        self._mean, self._deviation = mean.to(device), deviation.to(device)

    def size(self, split: str) -> int:
        """How many images a split holds; Mistake if there is no such split."""
        return len(self._part(split)[1])

    def batches(self, size: int, *, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See `DataSet.batches`."""
        draws = stream(lambda epoch: self._draw(seed, epoch), self.images, size, start, self.part)
        return (self._batch(*rows.unbind(1)) for rows in draws)

    def evaluate(self, split: str, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See `DataSet.evaluate`."""
        x, y = self._part(split)
        parts = ((cut(a, self.part), cut(b, self.part)) for a, b in zip(x.split(size), y.split(size), strict=True))
        return ((nchw(self._normal(a)), b) for a, b in parts if len(b))

    def first(self, split: str, count: int) -> tuple[Tensor, Tensor]:
        """See `DataSet.first`."""
        return next(self.evaluate(split, count))

    def _draw(self, seed: int, epoch: int) -> Tensor:
        """What chance decides in an epoch, (images, 4): image, first row and column of its crop, mirrored or not."""
        chance = generator(seed, epoch)
        order = torch.randperm(self.images, generator=chance)
        corner = torch.randint(2 * PAD + 1, (self.images, 2), generator=chance)
        flip = torch.randint(2, (self.images, 1), generator=chance)
        return torch.cat([order[:, None], corner, flip], dim=1).to(self._device)

    def _batch(self, index: Tensor, row: Tensor, column: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = self._parts["train"]
        x = self._normal(images[index])
        return nchw(crop(x, row, column, flip) if self._augment else x), labels[index]

    def _normal(self, x: Tensor) -> Tensor:
        return (x / self._scale - self._mean) / self._deviation

    def _part(self, split: str) -> tuple[Tensor, Tensor]:
        if split not in self._parts:
            raise one_of("split", split, self.splits)
        return self._parts[split]


class PixelArrays(Arrays):
    """Images of bytes, as they are, with a label a pixel, (n, height, width)."""

    labels = "pixels"

    def __init__(self, *parts: np.ndarray | Tensor, classes: int, **keys: Any) -> None:
        super().__init__(*parts, classes=classes, scale=255, augment=False, test_subset=None, **keys)
        self.task = OfPixels(classes)


def nchw(x: Tensor) -> Tensor:
    """Images (n, height, width, channels) seen as (n, channels, height, width): the memory format channels_last."""
    return x.permute(0, 3, 1, 2)


def crop(x: Tensor, row: Tensor, column: Tensor, flip: Tensor) -> Tensor:
    """Pad images (n, height, width, channels) with zeros, cut one window from each, mirror it where flip is 1.

    row and column (n,), 0 to 2 * PAD, are the window's first in the padded image; zero is the mean, as the images are
    normalised before (He et al. 2015, section 4.2).
    """
    n, height, width, channels = x.shape
    padded = pad(x, (0, 0, PAD, PAD, PAD, PAD))
    down, right = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    right = torch.where(flip[:, None] == 1, right.flip(0), right) + column[:, None]
    down = down + row[:, None] + padded.shape[1] * torch.arange(n, device=x.device)[:, None]
    pixel = padded.shape[2] * down[:, :, None] + right[:, None, :]
    return padded.view(-1, channels).index_select(0, pixel.view(-1)).view(x.shape)


def statistics(x: Tensor, scale: int, normalize: Normalize) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of x / scale, x uint8 (n, height, width, channels); float32, broadcast over x.

    pixel_mean: the mean image, and 1 (He et al. 2015); channel: both by channel, of a constant one 1 as deviation;
    imagenet: those of ImageNet's three channels, whatever x; none: 0 and 1. The sums are of whole numbers, exact in
    float64, so that neither device nor number of threads changes a bit.
    """
    if normalize == "none":
        return torch.zeros(1), torch.ones(1)
    if normalize == "imagenet":
        return torch.tensor(MEAN), torch.tensor(DEVIATION)

    def total(power: int) -> Tensor:
        return torch.stack([chunk.double().pow(power).sum(0) for chunk in x.split(1024)]).sum(0)

    if normalize == "pixel_mean":
        return (total(1) / len(x) / scale).float(), torch.ones(1)
    count = x[..., 0].numel()
    mean, square = (total(power).sum((0, 1)) / count for power in (1, 2))
    variance = (square - mean**2).clamp(min=0)
    return (mean / scale).float(), (torch.where(variance > 0, variance, scale**2).sqrt() / scale).float()
