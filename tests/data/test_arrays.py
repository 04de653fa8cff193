"""The stream of batches, its augmentation and normalisation, and the splits."""

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from depthlab.data.arrays import PAD, Arrays, crop, statistics
from depthlab.data.dataset import share
from depthlab.errors import Mistake

CPU = torch.device("cpu")
IMAGES = 30


def bytes_of(*shape, seed=0):
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def arrays(images=IMAGES, **keys):
    """Random images; a label is its image's position."""
    keys = {"augment": True, "normalize": "pixel_mean", "validation": 0, "subset": None, "test_subset": None} | keys
    x, test_x = bytes_of(images, 6, 5, 3), bytes_of(7, 6, 5, 3, seed=1)
    return Arrays(x, torch.arange(images), test_x, torch.arange(7), classes=images, device=CPU, scale=255, **keys)


def mirrored_window(image, row, column, flip):
    """One crop the slow way: the window's pixels one by one, zero outside the image."""
    height, width, _ = image.shape
    window = torch.zeros_like(image)
    for i in range(height):
        for j in range(width):
            y, x = i + row - PAD, j + column - PAD
            if 0 <= y < height and 0 <= x < width:
                window[i, j] = image[y, x]
    return window.flip(1) if flip else window


def same(a, b):
    return all(torch.equal(p, q) for one, other in zip(a, b, strict=True) for p, q in zip(one, other, strict=True))


@pytest.mark.parametrize("shape", [(6, 5, 3), (8, 8, 1)])
def test_crop_is_a_padded_window_mirrored(shape):
    n = 200
    chance = torch.Generator().manual_seed(0)
    x = torch.rand(n, *shape, generator=chance)
    row, column = torch.randint(2 * PAD + 1, (2, n), generator=chance)
    flip = torch.randint(2, (n,), generator=chance)
    expected = torch.stack([mirrored_window(*one) for one in zip(x, row, column, flip, strict=True)])
    assert torch.equal(crop(x, row, column, flip), expected)


def test_batches_crop_normalised_images():
    data = arrays()
    ((clean, _),) = data.evaluate("train", IMAGES)
    rows = data._draw(3, 0)
    x, y = next(data.batches(IMAGES, seed=3))
    assert torch.equal(y, rows[:, 0])
    for image, (index, *window) in zip(x, rows.tolist(), strict=True):
        assert torch.equal(image.permute(1, 2, 0), mirrored_window(clean[index].permute(1, 2, 0), *window))


def test_draws_are_uniform():
    rows = arrays(images=9000)._draw(0, 0)
    for column, outcomes in ((1, 9), (2, 9), (3, 2)):
        counts = rows[:, column].bincount()
        assert len(counts) == outcomes
        assert ((counts / 9000 - 1 / outcomes).abs() < 0.02).all()


def test_batches_are_float_channels_last():
    x, y = next(arrays().batches(4, seed=0))
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((4, 3, 6, 5), torch.float32, (4,), torch.int64)
    assert x.is_contiguous(memory_format=torch.channels_last)


@given(size=st.integers(1, IMAGES), start=st.integers(0, 40), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_a_stream_from_k_is_the_rest_of_the_whole_stream(size, start, seed):
    data = arrays()
    whole = islice(data.batches(size, seed=seed), start, start + 4)
    assert same(whole, islice(data.batches(size, seed=seed, start=start), 4))


@given(size=st.integers(1, IMAGES))
@settings(deadline=None, max_examples=20)
def test_every_epoch_is_a_permutation_and_batches_straddle(size):
    batches = list(islice(arrays().batches(size, seed=1), 4 * IMAGES // size + 1))
    assert all(len(y) == size for _, y in batches)
    epochs = torch.cat([y for _, y in batches])[: 4 * IMAGES].view(4, IMAGES)
    assert (epochs.sort().values == torch.arange(IMAGES)).all()
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4


@pytest.mark.parametrize(("size", "parts"), [(6, 1), (6, 2), (6, 3), (4, 3), (7, 2)])
def test_the_parts_of_several_processes_are_the_whole(size, parts):
    data = arrays()
    mine = [share(data, (place, parts)) for place in range(parts)]
    batches = [list(islice(part.batches(size, seed=2), 6)) for part in mine]
    for whole, *slices in zip(islice(data.batches(size, seed=2), 6), *batches, strict=True):
        assert all(torch.equal(a, torch.cat(b)) for a, b in zip(whole, zip(*slices, strict=True), strict=True))
        assert max(len(y) for _, y in slices) - min(len(y) for _, y in slices) == (size % parts > 0)
    for split, count in {"train": 30, "test": 7}.items():
        labels = torch.cat([y for part in mine for _, y in part.evaluate(split, size)])
        assert sorted(labels.tolist()) == list(range(count))
        assert all(len(y) for part in mine for _, y in part.evaluate(split, size))


def test_seeds_and_epochs_draw_differently():
    data = arrays()
    draws = [data._draw(seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert all(not torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])
    assert torch.equal(draws[2], data._draw(1, 0))


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    next(arrays().batches(4, seed=0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("scale", [16, 255])
def test_normalisation_in_closed_form(scale):
    x = bytes_of(3000, 4, 5, 3)
    z = x.double() / scale
    mean, deviation = statistics(x, scale, "pixel_mean")
    torch.testing.assert_close(mean, z.mean(0).float())
    assert deviation.item() == 1
    mean, deviation = statistics(x, scale, "channel")
    torch.testing.assert_close(mean, z.mean((0, 1, 2)).float())
    torch.testing.assert_close(deviation, z.std((0, 1, 2), correction=0).float())
    assert [s.item() for s in statistics(x, scale, "none")] == [0, 1]


def test_normalised_images_have_mean_zero_and_deviation_one():
    ((x, _),) = arrays(normalize="channel").evaluate("train", IMAGES)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3))


def test_statistics_are_of_the_images_in_use():
    few = arrays(validation=10, subset=12)
    ((x, y),) = few.evaluate("train", IMAGES)
    assert y.tolist() == list(range(12))
    torch.testing.assert_close(x.mean(0), torch.zeros(3, 6, 5), atol=1e-6, rtol=0)
    ((test, _),) = few.evaluate("test", IMAGES)
    expected = bytes_of(7, 6, 5, 3, seed=1) / 255 - (bytes_of(IMAGES, 6, 5, 3)[:12] / 255).mean(0)
    torch.testing.assert_close(test, expected.permute(0, 3, 1, 2))


def test_splits():
    data = arrays(validation=5, subset=20, test_subset=3)
    assert (data.images, data.classes, data.shape) == (20, IMAGES, (3, 6, 5))
    assert {split: data.size(split) for split in data.splits} == {"test": 3, "train": 20, "validation": 5}
    labels = {split: torch.cat([y for _, y in data.evaluate(split, 4)]).tolist() for split in data.splits}
    assert labels == {"test": [0, 1, 2], "train": list(range(20)), "validation": list(range(25, 30))}
    assert [len(y) for _, y in data.evaluate("train", 8)] == [8, 8, 4]
    assert set(torch.cat([y for _, y in islice(data.batches(20, seed=0), 3)]).tolist()) == set(range(20))
    assert arrays().splits == ("test", "train")


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"validation": 30}, "data.validation=30: from 0 to 29 (there are 30 training images)"),
        ({"validation": -1}, "data.validation=-1: from 0 to 29 (there are 30 training images)"),
        (
            {"validation": 5, "subset": 26},
            "data.subset=26: from 1 to 25 (25 training images are left after data.validation=5)",
        ),
        ({"subset": 0}, "data.subset=0: from 1 to 30 (30 training images are left after data.validation=0)"),
        ({"test_subset": 8}, "data.test_subset=8: from 1 to 7 (there are 7 test images)"),
        ({"test_subset": 0}, "data.test_subset=0: from 1 to 7 (there are 7 test images)"),
    ],
)
def test_mistakes_of_size(keys, text):
    with pytest.raises(Mistake) as mistake:
        arrays(**keys)
    assert str(mistake.value) == text


@pytest.mark.parametrize("size", [0, 31])
def test_a_batch_larger_than_the_data_is_a_mistake_at_once(size):
    with pytest.raises(Mistake, match=rf"recipe.batch={size}: from 1 to 30 \(the data holds 30 training images\)"):
        arrays().batches(size, seed=0)


def test_an_unknown_split_is_a_mistake():
    with pytest.raises(Mistake, match=r"split=validation: .*allowed: test, train"):
        arrays().size("validation")
    with pytest.raises(Mistake, match="split=tset: did you mean test"):
        arrays().evaluate("tset", 4)


def test_a_constant_channel_is_zero_and_no_division_by_zero():
    x = torch.randint(256, (9, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x[..., 1] = 7
    mean, deviation = statistics(x, 255, "channel")
    assert (mean[1].item(), deviation[1].item()) == (pytest.approx(7 / 255), 1)
    assert deviation[0].item() == pytest.approx((x[..., 0].double() / 255).std(correction=0).item())
