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

    assert len({form for form, _ in places(data, 30, image, nucleus)}) > 4


def places(data, count, image, nucleus):
    """How each training tile was turned, and its first row: where image and mask of the left part are its own."""
    slide = np.lib.stride_tricks.sliding_window_view
    masks, images = (slide(part[:, :384], (64, 64)).reshape(-1, 64, 64) for part in (nucleus, image))
    sums = masks.sum((1, 2))
    for x, y in zip(*(part.numpy() for part in data.first("train", count)), strict=True):
        near = np.flatnonzero(sums == y.sum())
        forms = [(np.rot90(y[::flip], k), np.rot90(x[0, ::flip], k).flatten()) for flip in (1, -1) for k in range(4)]
        form, place = next(
            (form, place)
            for form, (mask, pixels) in enumerate(forms)
            for place in near
            if (masks[place] == mask).all() and np.corrcoef(images[place].flatten(), pixels)[0, 1] > 0.999999
        )
        yield form, place // (384 - 63)


def test_validation_tiles_are_of_the_lowest_quarter_which_no_training_tile_sees():
    with np.load(FILE) as file:
        image, nucleus = file["image"], file["nucleus"]
    data = made(images=40, validation=10)
    assert {split: data.size(split) for split in data.splits} == {"test": 16, "train": 30, "validation": 10}
    assert max(row for _, row in places(data, 30, image, nucleus)) <= 384 - 64
    assert max(row for _, row in places(made(images=200), 200, image, nucleus)) > 384
    held = set(data.first("validation", 10)[1].sum((1, 2)).tolist())
    low = np.lib.stride_tricks.sliding_window_view(nucleus[384:, :384], (64, 64)).sum((2, 3))
    assert held <= {*low.flatten().tolist()}


def test_each_window_of_the_left_part_can_be_drawn(monkeypatch):
    class Last:
        def integers(self, low, high=None):
            return 0 if high is None else np.asarray(high) - 1

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Last())
    with np.load(FILE) as file:
        corner = torch.tensor(file["nucleus"][-64:, 384 - 64 : 384], dtype=torch.int64)
    assert torch.equal(made(images=1).first("train", 1)[1][0], corner)


def test_a_pure_function_of_the_seed():
    one, again, other = (made(seed=seed).first("train", 30)[1] for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert made(size=100, validation=10, subset=15).first("train", 99)[1].shape == (15, 100, 100)


@pytest.mark.parametrize(("key", "value"), [("size", 7), ("size", 129), ("images", 0), ("seed", -1)])
def test_numbers_out_of_range(key, value):
    with pytest.raises(Mistake, match=rf"^data\.{key}={value}: "):
        made(**{key: value})
