"""ImageNet-like folders of image files, decoded and augmented by worker processes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal
from warnings import catch_warnings

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from depthlab.data.arrays import DEVIATION, MEAN, nchw
from depthlab.data.dataset import cut, divide, generator, stream, vision
from depthlab.data.task import OfImages, Task
from depthlab.errors import Mistake, one_of, within
from depthlab.machine.processes import leave_group, unheard

COLORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Principal components of ImageNet's pixels, one a column, and ..."""
SPREAD = (0.2175, 0.0188, 0.0045)
"""... the eigenvalues; the papers print neither, both are those of fb.resnet.torch (Gross and Wilber 2016)."""
EXPECTED = "expected a folder that holds train/CLASS/*.JPEG and val/CLASS/*.JPEG"
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF")
"""What an image file can be. PIL knows forty more: so many more decoders for a crafted file to break."""
DIRECT = ("JPEG", "MPO", "PNG", "WEBP")
"""What torchvision decodes; GIF is left to PIL, as torchvision's decoder had an advisory up to 0.28. MPO: JPEG."""


def imagenet(
    device: torch.device,
    *,
    root: str | None,
    size: int,
    augment: Literal["aspect", "scale"],
    color: bool,
    crops: Literal[1, 10],
    workers: int,
    validation: int,
    subset: int | None,
) -> "Folders":
    """ImageNet (Russakovsky et al. 2015), or any set laid out like it: root/train/CLASS/* and root/val/CLASS/*.

    A training image is a random window, size x size pixels, mirrored half of the time. augment=aspect: of random area
    and aspect ratio, then resized (Szegedy et al. 2015); scale: of an image resized at random (`scaled`; He et al.
    2015, section 3.4). With color its colours vary too (`colors`). Other images are resized to 256/224 of size on
    the short side and cropped in the centre; with crops=10 errors are those of ten crops (`Folders.evaluate`).
    `validation` and `subset` count in one fixed random order, as the folders give one class after another. workers is
    the number of processes that decode; with 0 this one does. Mistake if the folders are not as described or a number
    is out of range.
    """
    within("data.size", size, 1, 10_000, "pixels")
    within("data.workers", workers, 0, 1_000, "processes")
    if root is None:
        raise Mistake(f"data.root=null: {EXPECTED}")
    datasets, v2 = vision("datasets"), vision("transforms.v2")
    try:
        train, test = (datasets.ImageFolder(Path(root).expanduser() / part) for part in ("train", "val"))
    except OSError as error:
        raise Mistake(f"data.root={root}: {EXPECTED} ({_line(error)})") from error
    if train.classes != test.classes:
        raise Mistake(f"data.root={root}: {EXPECTED}, with the same classes in both")
    window = {
        "aspect": [v2.RandomResizedCrop(size)],
        "scale": [partial(scaled, size=size), v2.RandomCrop(size)],
    }
    augmented = v2.Compose([*window[augment], v2.RandomHorizontalFlip()])
    resize = v2.Resize(round(size * 256 / 224))
    return Folders(
        train,
        test,
        augmented=augmented,
        centred=v2.Compose([resize, v2.CenterCrop(size)]),
        cropped=v2.Compose([resize, v2.TenCrop(size), torch.stack]) if crops == 10 else None,
        color=color,
        shape=(3, size, size),
        device=device,
        workers=workers,
        validation=validation,
        subset=subset,
    )


def _apart(worker: int) -> None:
    leave_group()


class Folders:
    """A `DataSet` of image files: `train` and `test` are torchvision's ImageFolder.

    The transforms turn an image's bytes (3, height, width) into those that the network sees: `augmented` and
    `centred` (3, size, size), and `cropped`, unless None, (10, 3, size, size).
    """

    labels = "images"
    task: Task = OfImages()
    part = (0, 1)

    def __init__(
        self,
        train: Any,
        test: Any,
        *,
        augmented: "Transform",
        centred: "Transform",
        cropped: "Transform | None",
        color: bool,
        shape: tuple[int, int, int],
        device: torch.device,
        workers: int,
        validation: int,
        subset: int | None,
    ) -> None:
        used, held_out = divide(len(train), validation, subset)
        order = torch.randperm(len(train), generator=generator(0)).tolist()
        self._parts = {
            "test": (test.samples, list(range(len(test)))),
            "train": (train.samples, [order[i] for i in used]),
            "validation": (train.samples, [order[i] for i in held_out]),
        }
        if not validation:
            del self._parts["validation"]
        self.splits = tuple(self._parts)
        self.images, self.classes, self.shape = len(used), len(train.classes), shape
        self._augmented, self._centred, self._cropped = augmented, centred, cropped
        self.views = 10 if cropped else 1
        self._color = color
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

        files, index = self._part("train")
        rows = stream(draw, self.images, size, start, self.part)
        images = Decoded(files, self._augmented)
        batches = self._load(images, ([(seed, e, index[i]) for e, i in keys.tolist()] for keys in rows))
        if not self._color:
            return batches
        shifts = stream(lambda e: colors(self.images, generator(seed, e, 0, 1)), self.images, size, start, self.part)
        return (
            (x + shift.to(self._device)[:, :, None, None] / self._deviation, y)
            for (x, y), shift in zip(batches, shifts, strict=True)
        )

    def evaluate(self, split: str, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See `DataSet.evaluate`; the ten views are the corners and the centre, then their mirror images (Krizhevsky
        et al. 2012, section 4.1), of an image resized as for the centre crop.
        """
        files, index = self._part(split)
        count = max(1, size // self.views)
        parts = (cut(index[k : k + count], self.part) for k in range(0, len(index), count))
        return self._load(
            Decoded(files, self._cropped or self._centred), ([(i,) for i in part] for part in parts if part)
        )

    def first(self, split: str, count: int) -> tuple[Tensor, Tensor]:
        """See `DataSet.first`: the centre crops."""
        files, index = self._part(split)
        return next(self._load(Decoded(files, self._centred), [[(i,) for i in index[:count]]]))

    def _load(self, images: "Decoded", keys: Iterable[list[tuple[int, ...]]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the given keys, normalised on the device; its own generator spares the global random state."""
        pinned = self._device.type == "cuda"
        loader = DataLoader(
            images,
            batch_sampler=keys,
            num_workers=self._workers,
            pin_memory=pinned,
            generator=torch.Generator(),
            worker_init_fn=_apart,
        )
        try:
            with unheard():
                loaded = iter(loader)
            for x, y in loaded:
                x, y = (part.to(self._device, non_blocking=pinned) for part in (nchw(x.flatten(0, -4)), y))
                yield torch.addcmul(-self._mean / self._deviation, x.float(), 1 / (255 * self._deviation)), y
        except Mistake as mistake:  # a worker's comes with its traceback as text before its own line
            line = str(mistake).splitlines()[-1]
            raise Mistake(line.removeprefix(f"{Mistake.__module__}.{Mistake.__name__}: ")) from None

    def _part(self, split: str) -> tuple[list[tuple[str, int]], list[int]]:
        if split not in self._parts:
            raise one_of("split", split, self.splits)
        return self._parts[split]


Transform = Callable[[Tensor], Tensor]


class Decoded(Dataset[tuple[Tensor, int]]):
    """Image files, decoded and transformed, channels last, with their labels; `files` are paths and labels.

    An index's last number is the image's position; all its numbers together determine what the transform draws. The
    random state of the calling process is left as it was.
    """

    def __init__(self, files: list[tuple[str, int]], transform: Transform) -> None:
        self._files, self._transform = files, transform

    def __getitem__(self, index: tuple[int, ...]) -> tuple[Tensor, int]:
        path, label = self._files[index[-1]]
        image = decode(path)
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator(*index).get_state())
            return self._transform(image).movedim(-3, -1), label


def decode(path: str) -> Tensor:
    """An image file in RGB, bytes (3, height, width); Mistake, naming it, if it cannot be read.

    torchvision decodes JPEG, PNG and WebP; PIL, which is slower, what torchvision does not: TIFF, BMP, PPM, 16 bits a
    colour, several frames, and all where torchvision has no decoder (0.29 announces its end). Greys of 16 bits and
    floats are refused, as PIL cuts them off.
    """
    if kind(path) in DIRECT:
        with suppress(RuntimeError, AttributeError):  # of a broken file PIL says better what is wrong
            image = vision("io").decode_image(path, mode="RGB")
            if image.dtype == torch.uint8 and image.dim() == 3:
                return image
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as opened:
            if opened.mode[0] in "IF":
                raise ValueError(f"{opened.mode}: more than 8 bits a grey")
            return torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
    except Exception as error:  # of any kind: each format has its own
        raise Mistake(f"data.root: {path} cannot be decoded ({_line(error)})") from error


def kind(path: str) -> str | None:
    """PIL's name of an image file's format, by its head, which alone is read; None where it is none of FORMATS.

    Raises Mistake where it has more pixels than PIL holds for sound (89 million): a small file can hold so many that
    they fill the memory.
    """
    from PIL import Image

    with catch_warnings(category=Image.DecompressionBombWarning, action="error"):
        try:
            with Image.open(path, formats=FORMATS) as opened:
                return opened.format
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise Mistake(f"data.root: {path} is no image to decode ({str(error).split(',')[0]})") from None
        except Exception:  # what is wrong with it, its decoding tells
            return None


def scaled(image: Tensor, *, size: int) -> Tensor:
    """An image resized so that its short side is drawn uniformly from 256 to 480 where `size` is 224, in proportion
    where it is not (He et al. 2015, section 3.4, after Simonyan and Zisserman 2014).
    """
    low, high = (round(size * short / 224) for short in (256, 480))
    short = int(torch.randint(low, high + 1, ()))
    return vision("transforms.v2.functional").resize(image, [short])


def colors(images: int, chance: torch.Generator) -> Tensor:
    """A colour (images, 3) for each image, to be added to all its pixels in 0 to 1: the principal components of
    ImageNet's colours, each times its eigenvalue times a number from N(0, 0.1) (Krizhevsky et al. 2012, 4.1).
    """
    alpha = 0.1 * torch.randn(images, 3, generator=chance)
    return alpha * torch.tensor(SPREAD) @ torch.tensor(COLORS).T


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
