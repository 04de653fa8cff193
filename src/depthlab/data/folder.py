"""Small images of one's own, held whole on the device: a folder of class folders, or an .npz of arrays."""

import hashlib
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from depthlab.data.arrays import Arrays
from depthlab.data.dataset import generator
from depthlab.data.images import FORMATS, kind
from depthlab.errors import Mistake

SPLITS = ("train", "test")
NAMES = ("x_train", "y_train", "x_test", "y_test")
EXPECTED = "expected a folder that holds train/CLASS/* and test/CLASS/* (of data=masks, images and masks for CLASS)"
EXPECTED += f", or an .npz with {', '.join(NAMES)}"
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".gif"}
"""How the name of an image file ends; other files are passed over."""


def folder(
    device: torch.device,
    *,
    root: str | None,
    content: str | None,
    augment: bool,
    normalize: Literal["pixel_mean", "channel", "none"],
    validation: int,
    subset: int | None,
) -> Arrays:
    """The images root/train/CLASS/* and root/test/CLASS/*, all of one size, or the arrays of an .npz at root.

    Classes are numbered by name, images go by path; where every image is grey there is one channel, else three.
    Where training images come class by class, `validation` and `subset` count in one fixed random order. An
    .npz has NAMES: x of bytes, or of floats, which are taken as they are, (n, height, width) or with channels last; y
    whole numbers from 0 on. The key `content`, the digest of that name, decides nothing here. Other keys: see
    `Arrays`. Mistake, which names the file, where the images are not so.
    """
    path = located(root)
    train_x, train_y, test_x, test_y = _arrays(path) if path.is_file() else _images(path)
    if train_x.shape[1:] != test_x.shape[1:]:
        raise Mistake(
            f"data.root={root}: images of {train_x.shape[1:]} to train on, of {test_x.shape[1:]} to test on"
        )
    if (train_x.dtype == np.uint8) != (test_x.dtype == np.uint8):
        raise Mistake(f"data.root={root}: one side of the images are bytes, 0 to 255, the other floats")
    if (validation or subset) and np.count_nonzero(np.diff(train_y)) < len(np.unique(train_y)) > 1:  # class by class
        order = torch.randperm(len(train_y), generator=generator(0)).numpy()
        train_x, train_y = train_x[order], train_y[order]
    return Arrays(
        *(train_x, train_y),
        *(test_x, test_y),
        classes=int(train_y.max()) + 1,
        device=device,
        scale=255 if train_x.dtype == np.uint8 else 1,
        augment=augment,
        normalize=normalize,
        validation=validation,
        subset=subset,
        test_subset=None,
    )


def content(root: str | None, expected: str | None) -> str:
    """A digest of all images at root, with their names: 16 hex digits. Mistake if it is not the expected one.

    Files are read again only where a name, a size or a time differs from the last call's.
    """
    path = located(root)
    try:
        files = (
            [path] if path.is_file() else [f for split in listed(path).values() for c in split.values() for f in c]
        )
        found = _digest(path, tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files))
    except OSError as error:
        raise Mistake(f"data.root={root}: {error.filename}: {(error.strerror or str(error)).lower()}") from None
    if expected not in (None, found):
        raise Mistake(f"data.content={expected}: data.root={root} now holds other images ({found})")
    return found


@lru_cache(maxsize=4)
def _digest(path: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    sha = hashlib.sha256()
    for file, _, _ in files:
        name = Path(file).relative_to(path).as_posix()
        sha.update(f"{name}\0{hashlib.sha256(Path(file).read_bytes()).hexdigest()}\n".encode())
    return sha.hexdigest()[:16]


def located(root: str | None) -> Path:
    """The folder or file at `root`. Mistake where there is none."""
    path = Path(root or "").expanduser()
    if root is None or not path.exists():
        raise Mistake(f"data.root={'null' if root is None else root}: {EXPECTED}")
    return path


def listed(root: Path) -> dict[str, dict[str, list[Path]]]:
    """The image files of each class of each split, by name; hidden files and folders are passed over."""
    splits = {}
    for split in SPLITS:
        if not (root / split).is_dir():
            held = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
            raise Mistake(f"data.root={root}: {EXPECTED}; it holds {held}")
        classes = sorted(path for path in (root / split).iterdir() if path.is_dir() and path.name[0] != ".")
        splits[split] = {
            path.name: sorted(
                file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.name[0] != "."
            )
            for path in classes
        }
    train, test = splits.values()
    for name in sorted(train.keys() ^ test.keys()):
        raise Mistake(f"data.root={root}: only {'train' if name in train else 'test'} has a class {name}")
    for split, classes in splits.items():
        for name, files in classes.items():
            if not files:
                raise Mistake(f"data.root={root}: the class {split}/{name} has no images")
    if not train:
        raise Mistake(f"data.root={root}: {EXPECTED}; train has no class")
    return splits


def _images(root: Path) -> list[np.ndarray]:
    splits = listed(root)
    images = stacked(root, {split: [f for files in c.values() for f in files] for split, c in splits.items()}, pixels)
    labels = {s: np.repeat(np.arange(len(c)), [len(files) for files in c.values()]) for s, c in splits.items()}
    return [part for split in splits for part in (images[split], labels[split])]


def stacked(
    root: Path, splits: Mapping[str, Sequence[Path]], read: Callable[[Any], np.ndarray]
) -> dict[str, np.ndarray]:
    """The files of each split, (n, height, width, channels), each as `read` makes it of an opened image. Mistake
    where one cannot be decoded or has another size than the first.
    """
    found, first = {}, None
    for split, files in splits.items():
        found[split] = [_decoded(file, read) for file in files]
        for file, image in zip(files, found[split], strict=True):
            first = first or (file, image.shape[:2])
            if image.shape[:2] != first[1]:
                (h, w), (height, width) = image.shape[:2], first[1]
                raise Mistake(
                    f"data.root={root}: {file.relative_to(root)} has {h}x{w} pixels, {first[0].relative_to(root)} "
                    f"{height}x{width}; resize them to one size (of labels of images, data=imagenet crops them)"
                )
    channels = max(image.shape[2] for images in found.values() for image in images)
    return {
        split: np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in images])
        for split, images in found.items()
    }


def pixels(opened: Any) -> np.ndarray:
    """The bytes (height, width, 1 or 3) of an opened image."""
    if opened.mode[0] in "IF" or any(re.search(r"(?<!BGR);16", str(tile[3])) for tile in opened.tile):
        raise ValueError(f"{opened.mode}: more than 8 bits a channel")
    grey = opened.mode in ("1", "L", "LA")
    image = np.array(opened.convert("L" if grey else "RGB"))
    return image[..., None] if grey else image


def _decoded(file: Path, read: Callable[[Any], np.ndarray]) -> np.ndarray:
    from PIL import Image

    kind(str(file))  # too many pixels are told
    try:
        with Image.open(file, formats=FORMATS) as opened:
            if (frames := getattr(opened, "n_frames", 1)) > 1 and opened.format != "MPO":  # a photograph, and a copy
                raise ValueError(f"{frames} images in one file")
            return read(opened)
    except Exception as error:  # of any kind: each format has its own
        raise Mistake(f"data.root: {file} cannot be decoded ({' '.join(str(error).split())[:200]})") from error


def _arrays(path: Path) -> list[np.ndarray]:
    if not zipfile.is_zipfile(path):
        raise Mistake(f"data.root={path}: {EXPECTED}; it is no .npz, or a damaged one")
    try:
        with np.load(path, allow_pickle=False) as file:
            names = file.files
            held = {name: part for name in NAMES if name in names and isinstance(part := file[name], np.ndarray)}
    except Exception as error:  # damaged bytes can raise anything
        raise Mistake(f"data.root={path}: {EXPECTED} ({' '.join(str(error).split())[:200]})") from error
    if {*held} != {*NAMES}:
        raise Mistake(f"data.root={path}: {EXPECTED}; it holds {', '.join(names[:8]) or 'nothing'}")
    parts = []
    for x, y in ((held["x_train"], held["y_train"]), (held["x_test"], held["y_test"])):
        x, y = (x[..., None] if x.ndim == 3 else x), y.reshape(-1)
        if x.ndim != 4 or not x.size or x.dtype.kind not in "uf" or (x.dtype.kind == "u" and x.dtype != np.uint8):
            raise Mistake(
                f"data.root={path}: images of {x.dtype} {x.shape}: uint8 or float (n, height, width, channels)"
            )
        if x.shape[1] == 3 < x.shape[3] or (x.shape[1] == 1 and x.shape[2] == x.shape[3] > 4):
            raise Mistake(f"data.root={path}: images of {x.shape}: channels come last, (n, height, width, channels)")
        if y.dtype.kind not in "iu" or len(y) != len(x) or y.min() < 0:
            raise Mistake(f"data.root={path}: {len(y)} labels of {y.dtype}: a whole number from 0 on for each image")
        with np.errstate(over="ignore"):
            x = x if x.dtype == np.uint8 else x.astype(np.float32)
        if not np.isfinite(x).all():
            raise Mistake(f"data.root={path}: images hold values that are not finite, or too large for float32")
        parts += [x, y.astype(np.int64)]
    train, test = set(parts[1].tolist()), set(parts[3].tolist())
    for place, label in enumerate(sorted(train | test)):
        if place != label:
            raise Mistake(f"data.root={path}: no image has the label {place}, and one has {label}")
        if label not in train & test:
            raise Mistake(f"data.root={path}: only y_{'train' if label in train else 'test'} has the label {label}")
    return parts
