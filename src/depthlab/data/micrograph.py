"""Cell nuclei in a fluorescence micrograph, embedded: real images whose pixels have labels."""

from pathlib import Path

import numpy as np
import torch

from depthlab.data.arrays import PixelArrays
from depthlab.errors import within

KEPT = 128
"""So many columns of the micrograph, the right quarter, are for testing, and so many rows, the lowest quarter of the
rest, for validation; no training tile sees them."""


def nuclei(
    device: torch.device, *, size: int, images: int, seed: int, validation: int, subset: int | None
) -> PixelArrays:
    """Grey tiles of `size` x `size` pixels; labels 0, the background, and 1, a nucleus.

    All are of one micrograph of 512 x 512 pixels with 125 nuclei, many of which touch. Training tiles are `images`
    windows of its left three quarters, each somewhere, turned and mirrored by chance: a pure function of `seed`,
    whatever the run's. Test tiles are the right quarter, cut into as many as fit. With `validation`, the last so many
    windows are of the lowest quarter, and the others of what is above. Normalised by channel.

    Source: the 2018 Data Science Bowl (Caicedo et al. 2019, Nature Methods 16; BBBC038v1, Broad Bioimage Benchmark
    Collection, CC0), the image and the mask that PyPI's stardist ships. Mistake if a number is out of range.
    """
    within("data.size", size, 8, KEPT, f"the test part is {KEPT} columns wide")
    within("data.images", images, 1, 10**6, "a count")
    within("data.seed", seed, 0, 2**31 - 1, "a seed")
    with np.load(Path(__file__).with_name("nuclei.npz")) as file:
        both = np.stack([file["image"], file["nucleus"]], axis=-1)
    seen, kept = both[:, :-KEPT], both[:, -KEPT:]
    upper, lower = (seen[:-KEPT], seen[-KEPT:]) if validation else (seen, seen)
    chance = np.random.default_rng(seed)
    train = np.stack([_somewhere(upper if i < images - validation else lower, size, chance) for i in range(images)])
    starts = [range(0, side - size + 1, size) for side in kept.shape[:2]]
    test = np.stack([kept[row : row + size, column : column + size] for row in starts[0] for column in starts[1]])
    return PixelArrays(
        *(part for tiles in (train, test) for part in (tiles[..., :1], tiles[..., 1])),
        classes=2,
        device=device,
        normalize="channel",
        validation=validation,
        subset=subset,
    )


def _somewhere(part: np.ndarray, size: int, chance: np.random.Generator) -> np.ndarray:
    row, column = chance.integers(0, np.subtract(part.shape[:2], size - 1))
    tile = np.rot90(part[row : row + size, column : column + size], int(chance.integers(4)))
    return tile[::-1] if chance.integers(2) else tile
