"""The micrograph and its tiles."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

import depthlab.data
from depthlab.errors import Mistake

CPU = torch.device("cpu")
FILE = Path(depthlab.data.__file__).with_name("nuclei.npz")


def made(**keys):
    given = {"size": 64, "images": 30, "seed": 0, "validation": 0, "subset": None}
    return depthlab.data.nuclei(CPU, **given | keys)


def test_the_micrograph_is_the_one_of_stardist():
    """stardist 0.9.2, data/images: img2d.tif, as bytes, and mask2d.tif > 0."""
    with np.load(FILE) as file:
        image, nucleus = file["image"], file["nucleus"]
    assert hashlib.sha256(image.tobytes() + nucleus.tobytes()).hexdigest().startswith("776a5ffda4b01068")
    assert (image.shape, nucleus.sum()) == ((512, 512), 52_226)


def test_test_tiles_are_the_right_quarter_and_training_tiles_lie_left_of_it():
    with np.load(FILE) as file:
        image, nucleus = file["image"], file["nucleus"]
    data = made(images=200)
    assert (data.classes, data.shape, data.size("test")) == (2, (1, 64, 64), 16)
    x, y = data.first("test", 16)
    grid = y.view(8, 2, 64, 64).transpose(1, 2).reshape(512, 128)
    assert torch.equal(grid, torch.tensor(nucleus[:, 384:], dtype=torch.int64))
    x = x[:, 0].view(8, 2, 64, 64).transpose(1, 2).reshape(512, 128).double()
    assert np.corrcoef(x.flatten(), image[:, 384:].flatten())[0, 1] > 0.999999

    windows = np.lib.stride_tricks.sliding_window_view(nucleus[:, :384], (64, 64)).reshape(-1, 64, 64)
    sums = windows.sum((1, 2))
    turns = set()
    for tile in data.first("train", 30)[1].numpy():
        places = windows[sums == tile.sum()]
        forms = [np.rot90(tile[::flip], k) for flip in (1, -1) for k in range(4)]
        found = [(places == form).all((1, 2)).any() for form in forms]
        assert any(found)
        turns.add(found.index(True))
    assert len(turns) > 4


def test_a_pure_function_of_the_seed():
    one, again, other = (made(seed=seed).first("train", 30)[1] for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert made(size=100, validation=10, subset=15).first("train", 99)[1].shape == (15, 100, 100)


@pytest.mark.parametrize(("key", "value"), [("size", 7), ("size", 129), ("images", 0), ("seed", -1)])
def test_numbers_out_of_range(key, value):
    with pytest.raises(Mistake, match=rf"^data\.{key}={value}: "):
        made(**{key: value})
