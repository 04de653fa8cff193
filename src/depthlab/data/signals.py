"""MNIST-1D, embedded: a data set of signals that needs no network, with room for errors between 0 and chance."""

from pathlib import Path

import numpy as np
import torch

from depthlab.data.arrays import Arrays


def mnist1d(device: torch.device, *, validation: int, subset: int | None) -> Arrays:
    """4,000 training and 1,000 test signals of 40 values in 10 classes (Greydanus and Kobak 2020, arXiv 2011.14439;
    Prince's notebooks of chapter 11), as images of 1 x 1 x 40 pixels: drawn digits, padded, stretched, shifted,
    tilted, and noise.

    The values of the authors' file mnist1d_data.pkl, rounded to float32. They have mean 0 and deviation 1 over all
    5,000 signals, and are not normalised again. Apache-2.0: mnist1d.LICENSE. Keys and mistakes: see `Arrays`.
    """
    with np.load(Path(__file__).with_name("mnist1d.npz")) as file:
        train, test = ((file[f"{split}_x"][:, None, :, None], file[f"{split}_y"]) for split in ("train", "test"))
    return Arrays(
        *train,
        *test,
        classes=10,
        device=device,
        scale=1,
        augment=False,
        normalize="none",
        validation=validation,
        subset=subset,
        test_subset=None,
    )
