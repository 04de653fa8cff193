"""ImageNet-like folders, on a few generated files."""

import re
import shutil
from itertools import islice

import numpy as np
import pytest
import torch

import depthlab.data
from conftest import bomb
from depthlab.errors import Mistake

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("torchvision")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    noise = np.random.default_rng(0)
    for part, count in (("train", 5), ("val", 3)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = noise.integers(0, 256, (30, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.jpg")
    return root


def imagenet(root, **keys):
    keys = {"size": 28, "workers": 0, "validation": 0, "subset": None} | keys
    return depthlab.data.imagenet(CPU, root=None if root is None else str(root), **keys)


def taken(iterator, count=None):
    xs, ys = zip(*islice(iterator, count), strict=True)
    return torch.cat(xs), torch.cat(ys)


def test_what_it_offers(folder):
    data = imagenet(folder, validation=2, subset=7)
    assert (data.classes, data.shape, data.images) == (2, (3, 28, 28), 7)
    assert {split: data.size(split) for split in data.splits} == {"test": 6, "train": 7, "validation": 2}
    x, y = next(data.batches(4, seed=0))
    assert (x.shape, x.dtype, y.dtype) == ((4, 3, 28, 28), torch.float32, torch.int64)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert imagenet(folder).splits == ("test", "train")


def test_held_out_images_are_of_all_classes_and_of_no_training(folder):
    data = imagenet(folder, validation=4)
    train, validation = (set(data._part(split)[1]) for split in ("train", "validation"))
    assert train | validation == set(range(10))
    assert not train & validation
    assert set(taken(data.evaluate("validation", 4))[1].tolist()) == {0, 1}


def test_evaluation_is_a_centre_crop_normalised(folder):
    x, y = taken(imagenet(folder).evaluate("test", 4))
    assert y.tolist() == [0, 0, 0, 1, 1, 1]
    with Image.open(folder / "val" / "cat" / "0.jpg") as image:
        scaled = image.resize((round(40 * 32 / 30 - 0.5), 32), Image.Resampling.BILINEAR)
    left = (scaled.width - 28) // 2
    expected = torch.tensor(np.array(scaled)[2:30, left : left + 28]).permute(2, 0, 1) / 255
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    torch.testing.assert_close(x[0], (expected - mean) / deviation, atol=0.02, rtol=0)


def test_a_stream_from_k_is_the_rest_and_workers_change_nothing(folder):
    before = torch.get_rng_state()
    x, y = taken(imagenet(folder).batches(4, seed=5), 8)
    assert torch.equal(torch.get_rng_state(), before)
    assert (y[:30].view(3, 10).sort().values == torch.tensor([0] * 5 + [1] * 5)).all()
    for workers, start in ((0, 3), (2, 0), (2, 3)):
        rest = taken(imagenet(folder, workers=workers).batches(4, seed=5, start=start), 8 - start)
        assert torch.equal(rest[0], x[4 * start :])
        assert torch.equal(rest[1], y[4 * start :])
    assert torch.equal(torch.get_rng_state(), before)


def test_each_epoch_crops_anew(folder):
    data = imagenet(folder, subset=1)
    x, _ = taken(data.batches(1, seed=0), 6)
    assert len({image.sum().item() for image in x}) == 6


def test_mistakes(folder, tmp_path):
    with pytest.raises(Mistake, match=r"data.root=null: expected a folder that holds train/CLASS"):
        imagenet(None)
    with pytest.raises(Mistake, match=r"data.root=.*: expected a folder that holds train/CLASS"):
        imagenet(tmp_path / "nowhere")
    for part, name in (("train", "cat"), ("val", "dog")):
        (tmp_path / part / name).mkdir(parents=True)
    with pytest.raises(Mistake, match=r"expected a folder that holds .*Found no valid file") as mistake:
        imagenet(tmp_path)
    assert "\n" not in str(mistake.value)
    for part, name in (("train", "cat"), ("val", "dog")):
        Image.new("RGB", (8, 8)).save(tmp_path / part / name / "0.jpg")
    with pytest.raises(Mistake, match="with the same classes in both"):
        imagenet(tmp_path)
    with pytest.raises(Mistake, match=r"data.validation=10: allowed 0 to 9"):
        imagenet(folder, validation=10)
    with pytest.raises(Mistake, match=r"data.workers=-1: allowed 0 to"):
        imagenet(folder, workers=-1)
    with pytest.raises(Mistake, match=r"recipe.batch=11: allowed 1 to 10"):
        imagenet(folder).batches(11, seed=0)
    with pytest.raises(Mistake, match="split=validation"):
        imagenet(folder).evaluate("validation", 4)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("size", [(10_000, 10_000), (20_000, 20_000), (65_000, 65_000)])
def test_an_image_that_would_fill_the_memory_is_one_line(folder, tmp_path, workers, size):
    shutil.copytree(folder, tmp_path / "set")
    bad = tmp_path / "set" / "val" / "dog" / "1.jpg"
    bad.write_bytes(bomb(*size))
    with pytest.raises(Mistake) as error:
        list(imagenet(tmp_path / "set", workers=workers).evaluate("test", 3))
    words = (
        rf"data\.root: {bad} is no image to decode \(Image size \({size[0] * size[1]} pixels\) exceeds limit of \d+"
    )
    assert re.match(words, str(error.value))
    assert "\n" not in str(error.value)
