"""ImageNet-like folders of image files, decoded and augmented by worker processes."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from depthlab.data.dataset import divide, generator, stream, vision, within
from depthlab.errors import Mistake, one_of

MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's training images by channel, pixels in 0 to 1."""
DEVIATION = (0.229, 0.224, 0.225)
"""Their standard deviation."""


def imagenet(
    device: torch.device, *, root: str | None, size: int, workers: int, validation: int, subset: int | None
) -> "Folders":
    """ImageNet (Russakovsky et al. 2015), or any set laid out like it: root/train/CLASS/* and root/val/CLASS/*.

    Training images are cropped at random, scaled to size x size pixels and mirrored half of the time (Szegedy et al.
    2015); others are scaled to 256/224 of size on the short side and cropped in the centre. `validation` and `subset`
    count in one fixed random order, as the folders give one class after another. workers is the number of processes
    that decode; with 0 this one does. Mistake if the folders are not as described or a number is out of range.
    """
    within("data.size", size, 1, 10_000, "pixels")
    within("data.workers", workers, 0, 1_000, "processes")
    expected = "expected a folder that holds train/CLASS/*.JPEG and val/CLASS/*.JPEG"
    if root is None:
        raise Mistake(f"data.root=null: {expected}")
    datasets = vision("datasets")
    try:
        train, test = (datasets.ImageFolder(Path(root).expanduser() / part) for part in ("train", "val"))
    except OSError as error:
        raise Mistake(f"data.root={root}: {expected} ({' '.join(str(error).split())[:200]})") from error
    if train.classes != test.classes:
        raise Mistake(f"data.root={root}: {expected}, with the same classes in both")
    return Folders(train, test, device=device, size=size, workers=workers, validation=validation, subset=subset)


class Folders:
    """A `DataSet` of image files: `train` and `test` are torchvision's ImageFolder without a transform."""

    def __init__(
        self,
        train: Any,
        test: Any,
        *,
        device: torch.device,
        size: int,
        workers: int,
        validation: int,
        subset: int | None,
    ) -> None:
        v2 = vision("transforms.v2")
        augmented = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.PILToTensor()])
        centred = v2.Compose([v2.Resize(round(size * 256 / 224)), v2.CenterCrop(size), v2.PILToTensor()])
        used, held_out = divide(len(train), validation, subset)
        order = torch.randperm(len(train), generator=generator(0)).tolist()
        self._training = Decoded(train, augmented)
        self._parts = {
            "test": (Decoded(test, centred), list(range(len(test)))),
            "train": (Decoded(train, centred), [order[i] for i in used]),
            "validation": (Decoded(train, centred), [order[i] for i in held_out]),
        }
        if not validation:
            del self._parts["validation"]
        self.splits = tuple(self._parts)
        self.images, self.classes, self.shape = len(used), len(train.classes), (3, size, size)
        self._device, self._workers = device, workers
        self._mean, self._deviation = (
            torch.tensor(values, device=device)[:, None, None] for values in (MEAN, DEVIATION)
        )

    def size(self, split: str) -> int:
        """How many images a split holds; Mistake if there is no such split."""
        return len(self._part(split)[1])

    def batches(self, size: int, *, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See `DataSet.batches`; the augmentation of an image is a function of (seed, epoch, image)."""

        def draw(epoch: int) -> Tensor:
            order = torch.randperm(self.images, generator=generator(seed, epoch))
            return torch.stack([torch.full_like(order, epoch), order], dim=1)

        _, index = self._part("train")
        rows = stream(draw, self.images, size, start)
        return self._load(self._training, ([(seed, e, index[i]) for e, i in cut.tolist()] for cut in rows))

    def evaluate(self, split: str, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See `DataSet.evaluate`."""
        images, index = self._part(split)
        return self._load(images, ([(i,) for i in index[k : k + size]] for k in range(0, len(index), size)))

    def _load(self, images: "Decoded", keys: Iterable[list[tuple[int, ...]]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the given keys, normalised on the device; its own generator spares the global random state."""
        pinned = self._device.type == "cuda"
        loader = DataLoader(
            images, batch_sampler=keys, num_workers=self._workers, pin_memory=pinned, generator=torch.Generator()
        )
        try:
            for x, y in loader:
                x = x.to(self._device, memory_format=torch.channels_last, non_blocking=pinned)
                yield (x / 255 - self._mean) / self._deviation, y.to(self._device, non_blocking=pinned)
        except Mistake as mistake:  # a worker's comes with its traceback as text before its own line
            line = str(mistake).splitlines()[-1]
            raise Mistake(line.removeprefix(f"{Mistake.__module__}.{Mistake.__name__}: ")) from None

    def _part(self, split: str) -> tuple["Decoded", list[int]]:
        if split not in self._parts:
            raise one_of("split", split, self.splits)
        return self._parts[split]


class Decoded(Dataset[tuple[Tensor, int]]):
    """The images of a folder, decoded and transformed to bytes (3, size, size), with their labels.

    An index's last number is the image's position; all its numbers together determine what the transform draws. The
    random state of the calling process is left as it was.
    """

    def __init__(self, folder: Any, transform: Callable[[Any], Tensor]) -> None:
        self._folder, self._transform = folder, transform

    def __getitem__(self, index: tuple[int, ...]) -> tuple[Tensor, int]:
        check_size(self._folder.samples[index[-1]][0])
        image, label = self._folder[index[-1]]
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator(*index).get_state())
            return self._transform(image), label


def check_size(path: str) -> None:
    """Raises Mistake where an image file, of which the head alone is read, has more pixels than PIL holds for sound
    (89 million): a small file can hold so many that they fill the memory.
    """
    from PIL import Image

    with catch_warnings(category=Image.DecompressionBombWarning, action="error"):
        try:
            Image.open(path).close()
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise Mistake(f"data.root: {path} is no image to decode ({str(error).split(',')[0]})") from None
        except OSError:  # what is wrong with it, its decoding tells
            pass
