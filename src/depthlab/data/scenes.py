"""Scenes: several handwritten digits on a noisy canvas, and the class of each pixel."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from depthlab.data.arrays import PixelArrays
from depthlab.errors import within

DIGITS = (2, 5)
"""Least and most digits of a scene."""
SIDES = (10, 20)
"""Least and most pixels that a digit of 8 x 8 is enlarged to, high and wide."""
INK = 0.4
"""A pixel is of a digit if it is at least so dark, where 1 is full ink."""
NOISE = 0.12
"""Standard deviation of the noise on each pixel."""


def scenes(
    device: torch.device,
    *,
    size: int,
    digits: int,
    images: int,
    test_images: int,
    seed: int,
    validation: int,
    subset: int | None,
) -> PixelArrays:
    """Grey images of `size` x `size` pixels; labels 0, the background, and 1 + d on the ink of a digit d, of the
    first so many `digits`.

    Each scene has 2 to 5 of the embedded digits, 10 to 20 pixels high, each somewhere or, half the time, beside or on
    the one before, which it covers: so they touch and overlap. Ink is of a darkness of its own, on a background that
    is lighter at one side, with noise on all. Test scenes are made of every fifth of the embedded digits,
    training scenes of the others. A pure function of `seed`, whatever the run's. Normalised by channel.

    Mistake if `size` has no room for a digit, or a number is out of range.
    """
    within("data.size", size, SIDES[1], 1024, f"digits are up to {SIDES[1]} pixels high")
    within("data.digits", digits, 1, 10, "0, 1, and so on")
    for key, given in (("images", images), ("test_images", test_images)):
        within(f"data.{key}", given, 1, 10**6, "a count")
    within("data.seed", seed, 0, 2**31 - 1, "a seed")
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        chosen = file["y"] < digits
        ink, classes = file["x"][chosen] / 16, file["y"][chosen]
    test = np.arange(len(classes)) % 5 == 0
    made = []
    for split, (those, count) in enumerate(((~test, images), (test, test_images))):
        chance = np.random.default_rng([seed, split])
        drawn = [scene(ink[those], classes[those], size, chance) for _ in range(count)]
        made += [np.stack([image for image, _ in drawn])[..., None], np.stack([labels for _, labels in drawn])]
    return PixelArrays(
        *made,
        classes=1 + digits,
        device=device,
        normalize="channel",
        validation=validation,
        subset=subset,
    )


def scene(
    ink: np.ndarray, classes: np.ndarray, size: int, chance: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One image, bytes (size, size), and its labels: of digits `ink` (n, 8, 8), 0 to 1, and their `classes` (n,)."""
    shade = np.linspace(0, chance.uniform(0, 0.3), size)
    image = np.rot90(np.tile(shade, (size, 1)), int(chance.integers(4))).copy()
    labels, corner = np.zeros((size, size), np.uint8), None
    for one in chance.integers(len(ink), size=chance.integers(DIGITS[0], DIGITS[1] + 1)):
        side = int(chance.integers(SIDES[0], SIDES[1] + 1))
        anywhere = chance.integers(0, size - side + 1, 2)
        if corner is None or chance.random() < 0.5:
            corner = anywhere
        else:
            corner = (corner + chance.integers(-side, side + 1, 2)).clip(0, size - side)
        large = enlarged(ink[one], side)
        window = tuple(slice(start, start + side) for start in corner)
        covered = large >= INK
        image[window][covered] = (large * chance.uniform(0.6, 1.0))[covered]
        labels[window][covered] = 1 + classes[one]
    noisy = image + chance.normal(0, NOISE, image.shape)
    return (255 * noisy.clip(0, 1)).astype(np.uint8), labels


def enlarged(digit: np.ndarray, side: int) -> np.ndarray:
    """(8, 8) as (side, side), linearly between its pixels."""
    given = torch.as_tensor(digit, dtype=torch.float64)[None, None]
    return functional.interpolate(given, (side, side), mode="bilinear", align_corners=False)[0, 0].numpy()
