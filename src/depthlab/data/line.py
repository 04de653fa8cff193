"""Numbers on a line: the toy of Balduzzi et al. 2017, section 2."""

import torch

from depthlab.data.arrays import Arrays
from depthlab.errors import within


def line(device: torch.device, *, points: int) -> Arrays:
    """`points` numbers, evenly spaced in [-2, 2] and in order, as images of shape (1, 1, 1), unnormalised; the class
    is 1 if the number is positive. Training and test images are the same. Mistake on fewer than 2 points.
    """
    within("data.points", points, 2, 10**9, "both ends")
    x = torch.linspace(-2, 2, points).view(-1, 1, 1, 1)
    y = (x > 0).flatten()
    return Arrays(
        *(x, y),
        *(x, y),
        classes=2,
        device=device,
        scale=1,
        augment=False,
        normalize="none",
        validation=0,
        subset=None,
        test_subset=None,
    )
