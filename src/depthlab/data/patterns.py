"""Invented images of any size and number: for tests, benchmarks and dry runs."""

import numpy as np
import torch

from depthlab.data.arrays import Arrays
from depthlab.errors import within


def synthetic(
    device: torch.device, *, classes: int, channels: int, size: int, images: int, test_images: int, augment: bool
) -> Arrays:
    """Each class is one random pattern of channels x size x size bytes, each of its images that pattern plus noise.

    A linear classifier can learn it. Always the same for the same keys, whatever the run's seed. Normalised by
    channel. Mistake if a key is below 1.
    """
    for key, given in locals().items():
        if key not in ("device", "augment"):
            within(f"data.{key}", given, 1, 10**9, "a count")
    patterns = np.random.default_rng(0).uniform(64, 192, (classes, size, size, channels))

    def noisy(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % classes
        noise = np.random.default_rng(seed).normal(0, 48, (count, size, size, channels))
        return (patterns[labels] + noise).clip(0, 255).astype(np.uint8), labels

    return Arrays(
        *noisy(images, 1),
        *noisy(test_images, 2),
        classes=classes,
        device=device,
        scale=255,
        augment=augment,
        normalize="channel",
        validation=0,
        subset=None,
        test_subset=None,
    )
