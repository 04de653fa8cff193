"""scikit-learn's 8 x 8 handwritten digits, embedded: a data set that needs no network and trains in a minute."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from depthlab.data.arrays import Arrays


def digits(
    device: torch.device,
    *,
    augment: bool,
    normalize: Literal["pixel_mean", "channel", "none"],
    validation: int,
    subset: int | None,
) -> Arrays:
    """1,797 handwritten digits of 1 x 8 x 8 pixels from 0 to 16; every fifth, from the first on, is a test image.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998, CC BY 4.0, its test set as in
    sklearn.datasets.load_digits. Keys and mistakes: see `Arrays`.
    """
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        x, y = file["x"][..., None], file["y"]
    test = np.arange(len(y)) % 5 == 0
    return Arrays(
        x[~test],
        y[~test],
        x[test],
        y[test],
        classes=10,
        device=device,
        scale=16,
        augment=augment,
        normalize=normalize,
        validation=validation,
        subset=subset,
        test_subset=None,
    )
