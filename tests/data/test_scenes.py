"""Scenes of digits, and the labels of their pixels."""

import sys

import pytest
import torch

from depthlab.data import digits
from depthlab.data.scenes import scenes
from depthlab.errors import Mistake

CPU = torch.device("cpu")


def made(**keys):
    given = {"size": 32, "digits": 10, "images": 40, "test_images": 30, "seed": 0, "validation": 0, "subset": None}
    return scenes(CPU, **given | keys)


def test_shapes_and_classes():
    data = made(validation=10)
    x, y = data.first("train", 30)
    assert (x.shape, y.shape, y.dtype) == ((30, 1, 32, 32), (30, 32, 32), torch.int64)
    assert (data.classes, data.shape, data.images, data.size("validation")) == (11, (1, 32, 32), 30, 10)
    assert torch.equal(y.unique(), torch.arange(11))
    few = made(digits=3)
    assert (few.classes, few.first("train", 40)[1].max()) == (4, 3)
    x, y = next(data.batches(8, seed=0))
    assert (x.shape, y.shape) == ((8, 1, 32, 32), (8, 32, 32))


def test_a_pure_function_of_the_seed():
    one, again, other = (made(seed=seed).first("test", 30) for seed in (3, 3, 4))
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert not torch.equal(one[1], other[1])
    assert torch.equal(made(seed=3, images=50).first("train", 40)[1], made(seed=3).first("train", 40)[1])


def test_digits_stand_out_from_their_background_and_touch():
    x, y = made().first("train", 40)
    inside, outside = x[:, 0][y > 0].mean(), x[:, 0][y == 0].mean()
    assert inside > outside + 1
    right = (y[:, :, 1:] != y[:, :, :-1]) & (y[:, :, 1:] > 0) & (y[:, :, :-1] > 0)
    assert right.flatten(1).any(1).float().mean() > 0.3  # in so many scenes two digits of different classes touch
    assert 0.1 < (y > 0).float().mean() < 0.6


def test_test_scenes_are_of_digits_that_no_training_scene_has(monkeypatch):
    """With a digit's pixels as they are, alone on a still canvas, each is found in its own split alone."""
    for name, value in {"DIGITS": (1, 1), "SIDES": (8, 8), "NOISE": 0.0, "INK": 1e-9}.items():
        monkeypatch.setattr(sys.modules["depthlab.data.scenes"], name, value)
    known = digits(CPU, augment=False, normalize="none", validation=0, subset=None)
    forms = {split: {shape(x) for x in known.first(split, 2000)[0][:, 0]} for split in ("train", "test")}
    data = made(size=8)
    for split, other in (("train", "test"), ("test", "train")):
        inked = [shape(labels > 0) for labels in data.first(split, 30)[1]]
        assert all(form in forms[split] for form in inked)
        assert not all(form in forms[other] for form in inked)


def shape(x):
    return tuple((x > 0).flatten().tolist())


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"size": 19}, "data.size=19: from 20 to 1024 (digits are up to 20 pixels high)"),
        ({"digits": 11}, "data.digits=11: from 1 to 10 (0, 1, and so on)"),
        ({"images": 0}, "data.images=0: from 1 to 1000000 (a count)"),
        ({"test_images": 0}, "data.test_images=0: from 1 to 1000000 (a count)"),
        ({"seed": -1}, "data.seed=-1: from 0 to 2147483647 (a seed)"),
        ({"validation": 40}, "data.validation=40: from 0 to 39 (there are 40 training images)"),
    ],
)
def test_mistakes(keys, told):
    with pytest.raises(Mistake) as mistake:
        made(**keys)
    assert str(mistake.value) == told
