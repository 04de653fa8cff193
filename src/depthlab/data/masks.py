"""Small images of one's own with a class for each pixel: a folder of images and of masks."""

from typing import Any, Literal

import numpy as np
import torch

from depthlab.data.arrays import PixelArrays
from depthlab.data.folder import listed, located, pixels, stacked
from depthlab.errors import Mistake

PARTS = ("images", "masks")
EXPECTED = "expected train/images/*, train/masks/*, test/images/*, test/masks/*, a mask's name that of its image"


def masks(
    device: torch.device,
    *,
    root: str | None,
    content: str | None,
    normalize: Literal["pixel_mean", "channel", "none"],
    validation: int,
    subset: int | None,
) -> PixelArrays:
    """The images root/train/images/*, root/test/images/*, all of one size, and their masks of the same names, endings
    aside, in root/train/masks and root/test/masks.

    A mask has one byte a pixel, grey or an index into a palette. The values that occur in training masks are the
    classes, in their order: 0 and 255 are classes 0 and 1. The key `content`, the digest of that name, decides
    nothing here. Other keys: see `Arrays`. Mistake, which names the file, where they are not so.
    """
    path = located(root)
    if path.is_file():
        raise Mistake(f"data.root={root}: {EXPECTED}")
    splits = listed(path)
    for split, parts in splits.items():
        if {*parts} != {*PARTS}:
            raise Mistake(f"data.root={root}: {EXPECTED}; {split} holds {', '.join(parts)}")
        names = [{file.stem for file in parts[part]} for part in PARTS]
        for name in sorted(names[0] ^ names[1])[:1]:
            has = PARTS[name in names[1]]
            raise Mistake(f"data.root={root}: {split}/{has} has {name}, {split}/{PARTS[has == PARTS[0]]} has not")
        if any(len(parts[part]) != len(names[0]) for part in PARTS):
            raise Mistake(f"data.root={root}: {split} has two files of one name and two endings")
        parts |= {part: sorted(parts[part], key=lambda file: file.stem) for part in PARTS}
    images, labels = (
        stacked(path, {split: parts[part] for split, parts in splits.items()}, read)
        for part, read in zip(PARTS, (pixels, _values), strict=True)
    )
    if images["train"].shape[1:3] != labels["train"].shape[1:3]:
        sizes = ["x".join(map(str, part["train"].shape[1:3])) for part in (images, labels)]
        raise Mistake(f"data.root={root}: images of {sizes[0]} and masks of {sizes[1]} pixels")
    classes = np.unique(labels["train"])
    unknown = np.setdiff1d(labels["test"], classes)
    if len(unknown):
        raise Mistake(f"data.root={root}: no training mask has the value {unknown[0]}, which a test mask has")
    return PixelArrays(
        *(part for s in splits for part in (images[s], np.searchsorted(classes, labels[s][..., 0]))),
        classes=len(classes),
        device=device,
        normalize=normalize,
        validation=validation,
        subset=subset,
    )


def _values(opened: Any) -> np.ndarray:
    if opened.format in ("JPEG", "MPO"):
        raise ValueError("JPEG changes values; a mask is a PNG")
    if opened.mode not in ("1", "L", "P"):
        raise ValueError(f"{opened.mode}: a mask has one byte a pixel, its class")
    return np.array(opened, dtype=np.uint8)[..., None]
