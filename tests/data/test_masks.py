"""A folder of images and masks: the same arrays come back, and what is wrong with one is named."""

import numpy as np
import pytest
import torch
from PIL import Image

from depthlab.data import content, masks
from depthlab.errors import Mistake

CPU = torch.device("cpu")
VALUES = np.array([0, 7, 255], np.uint8)


def read(root, **keys):
    return masks(
        CPU, **{"root": str(root), "content": None, "normalize": "none", "validation": 0, "subset": None} | keys
    )


@pytest.fixture
def made(tmp_path):
    """Six and three colour images of 6x9 pixels, written last first, and their classes."""
    chance, kept = np.random.default_rng(0), {}
    for split, count in (("train", 6), ("test", 3)):
        x = chance.integers(0, 256, (count, 6, 9, 3), np.uint8)
        y = chance.integers(0, 3, (count, 6, 9))
        y[0].flat[:3] = range(3)
        kept[split] = x, y
        for part in ("images", "masks"):
            (tmp_path / split / part).mkdir(parents=True)
        for i in reversed(range(count)):
            Image.fromarray(x[i]).save(tmp_path / split / "images" / f"{i}.png")
            mask = Image.fromarray(VALUES[y[i]])
            if i % 2:
                mask.putpalette([*range(256)] * 3)
            mask.save(tmp_path / split / "masks" / f"{i}.{'png' if i % 2 else 'bmp'}")
    return tmp_path, kept


def test_images_and_classes_come_back(made):
    root, kept = made
    data = read(root)
    assert (data.classes, data.shape, data.images, data.labels) == (3, (3, 6, 9), 6, "pixels")
    for split, (x, y) in kept.items():
        images, labels = data.first(split, len(x))
        assert np.array_equal((255 * images).round().permute(0, 2, 3, 1).numpy(), x)
        assert np.array_equal(labels.numpy(), y)
    assert data.task.metrics(data.task.counts(torch.eye(3)[labels].movedim(-1, 1), labels).double())["iou"] == 100


def resave(root, change, place="test/masks/2.bmp"):
    with Image.open(root / place) as image:
        changed = change(image)
    changed.save(root / place)


def jpeg(root):
    with Image.open(root / "test/masks/2.bmp") as mask:
        mask.convert("L").save(root / "test/masks/2.jpg")
    (root / "test/masks/2.bmp").unlink()


def resized(mask):
    return mask.resize((8, 6))


WRONG = [
    (lambda root: (root / "test/masks/2.bmp").unlink(), "test/images has 2, test/masks has not"),
    (lambda root: (root / "test/images/2.png").unlink(), "test/masks has 2, test/images has not"),
    (lambda root: (root / "train/images").rename(root / "train/pictures"), "only test has a class images"),
    (lambda root: (root / "train/masks/0.tif").hardlink_to(root / "train/masks/0.bmp"), "two files of one name"),
    (lambda root: resave(root, resized), "test/masks/2.bmp has 6x8 pixels, train/masks/0.bmp 6x9"),
    (lambda root: resave(root, lambda x: x.convert("RGB")), "cannot be decoded (RGB: a mask has one byte a pixel"),
    (lambda root: resave(root, lambda x: x.point([9] * 256)), "no training mask has the value 9, which a test mask"),
    (lambda root: jpeg(root), "cannot be decoded (JPEG changes values; a mask is a PNG)"),
]


@pytest.mark.parametrize(("change", "text"), WRONG)
def test_what_is_wrong_is_named(made, change, text):
    root, _ = made
    change(root)
    with pytest.raises(Mistake) as mistake:
        read(root)
    assert text in str(mistake.value)
    assert "\n" not in str(mistake.value)


def test_other_roots_are_told(made, tmp_path):
    root, _ = made
    for wrong in (None, root / "train/images/0.png", root / "train"):
        with pytest.raises(Mistake, match=r"^data\.root="):
            read(wrong) if wrong else masks(CPU, root=None, content=None, normalize="none", validation=0, subset=None)


def test_the_content_is_that_of_images_and_masks(made):
    root, _ = made
    before = content(str(root), None)
    resave(root, lambda x: x.point(lambda value: 7), "train/masks/0.bmp")
    assert content(str(root), None) != before


def test_the_command_trains_on_them(made, command):
    root, _ = made
    words = "width=2 depth=8 network.levels=1 recipe.batch=2 recipe.iterations=2 epochs=null"
    outcome = command("data=masks", f"data.root={root}", *words.split())
    assert outcome.code == 0, outcome.err
    assert "border iou" in outcome.out
    assert command("data=masks").err.startswith("error: data.root=null: expected a folder")
