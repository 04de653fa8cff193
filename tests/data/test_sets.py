"""The embedded and the invented set, and what holds for all of the group."""

import subprocess
import sys

import pytest
import torch
from mnist1d.data import make_dataset
from sklearn.datasets import load_digits

import depthlab.data
from depthlab.errors import Mistake

CPU = torch.device("cpu")
SYNTHETIC = {"classes": 4, "channels": 2, "size": 6, "images": 40, "test_images": 200, "augment": False}


def digits(**keys):
    keys = {"augment": False, "normalize": "none", "validation": 0, "subset": None} | keys
    return depthlab.data.digits(CPU, **keys)


def test_digits_are_those_of_sklearn():
    original = load_digits()
    data = digits()
    assert (data.classes, data.shape, data.images, data.size("test")) == (10, (1, 8, 8), 1437, 360)
    for split, rest in (("test", [0]), ("train", [1, 2, 3, 4])):
        chosen = [i for i in range(1797) if i % 5 in rest]
        ((x, y),) = data.evaluate(split, 2000)
        assert torch.equal(x[:, 0] * 16, torch.tensor(original.images[chosen], dtype=torch.float32))
        assert y.tolist() == original.target[chosen].tolist()


def test_digits_hold_out_their_last():
    data = digits(validation=200, subset=1000, normalize="channel", augment=True)
    assert {split: data.size(split) for split in data.splits} == {"test": 360, "train": 1000, "validation": 200}


def test_mnist1d_is_the_authors():
    """Their generator in its usual settings; its rounding, that of numpy and scipy, differs from their file's."""
    original = make_dataset()
    data = depthlab.data.mnist1d(CPU, validation=0, subset=None)
    assert (data.classes, data.shape, data.images, data.size("test")) == (10, (1, 1, 40), 4000, 1000)
    for split, ending in (("train", ""), ("test", "_test")):
        ((x, y),) = data.evaluate(split, 5000)
        assert torch.allclose(x[:, 0, 0], torch.tensor(original[f"x{ending}"], dtype=torch.float32), atol=1e-6)
        assert y.tolist() == original[f"y{ending}"].tolist()


def test_mnist1d_holds_out_its_last():
    data = depthlab.data.mnist1d(CPU, validation=500, subset=1000)
    assert {split: data.size(split) for split in data.splits} == {"test": 1000, "train": 1000, "validation": 500}


def test_synthetic_is_learnable_and_always_the_same():
    data = depthlab.data.synthetic(CPU, **SYNTHETIC)
    assert (data.classes, data.shape, data.images, data.size("test")) == (4, (2, 6, 6), 40, 200)
    ((x, y),) = data.evaluate("train", 40)
    ((test_x, test_y),) = data.evaluate("test", 200)
    centres = torch.stack([x[y == c].mean(0) for c in range(4)])
    found = torch.cdist(test_x.flatten(1), centres.flatten(1)).argmin(1)
    assert (found == test_y).float().mean() > 0.95
    again = depthlab.data.synthetic(CPU, **SYNTHETIC | {"test_images": 1})
    assert torch.equal(next(again.evaluate("train", 40))[0], x)


@pytest.mark.parametrize("key", [key for key in SYNTHETIC if key != "augment"])
def test_synthetic_refuses_nothing(key):
    with pytest.raises(Mistake, match=f"data.{key}=0: from 1 to"):
        depthlab.data.synthetic(CPU, **SYNTHETIC | {key: 0})


@pytest.mark.parametrize("points", [2, 256])
def test_a_line_is_even_and_in_order(points):
    data = depthlab.data.line(CPU, points=points)
    assert (data.classes, data.shape, data.images, data.splits) == (2, (1, 1, 1), points, ("test", "train"))
    for split in data.splits:
        ((x, y),) = data.evaluate(split, points)
        assert x.flatten().tolist() == pytest.approx([-2 + 4 * i / (points - 1) for i in range(points)], abs=1e-6)
        assert torch.equal(x.flip(0), -x)
        assert y.tolist() == [0] * (points // 2) + [1] * (points // 2)


def test_a_point_is_no_line():
    with pytest.raises(Mistake, match=r"data.points=1: from 2 to .*both ends"):
        depthlab.data.line(CPU, points=1)


def test_importing_needs_neither_torchvision_nor_pillow():
    code = "import depthlab.data, sys; assert not {'torchvision', 'PIL', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
