"""Errors of labels per pixel against scikit-learn's and scipy's, and the loop with both kinds of labels."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy.ndimage import maximum_filter, minimum_filter
from sklearn.metrics import accuracy_score, jaccard_score
from torch import nn
from torch.nn import functional

from depthlab.data.scenes import scenes
from depthlab.data.task import OfImages, OfPixels, border
from depthlab.training.loop import State, evaluate, train
from depthlab.training.optimizer import sgd
from depthlab.training.recipe import Recipe, Warmup


def drawn(images=6, classes=5, side=12):
    """Logits that are often right, and labels in patches; class 4 is in no label and is said here and there."""
    chance = torch.Generator().manual_seed(0)
    coarse = torch.randint(classes - 1, (images, side // 4, side // 4), generator=chance)
    labels = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)
    logits = functional.one_hot(labels, classes).movedim(-1, 1) + torch.randn(
        images, classes, side, side, generator=chance
    )
    return logits, labels


def test_a_border_is_within_two_pixels_of_another_class():
    _, labels = drawn()
    for given, found in zip(labels.numpy(), border(labels).numpy(), strict=True):
        wanted = maximum_filter(given, 5, mode="nearest") != minimum_filter(given, 5, mode="nearest")
        assert np.array_equal(found, wanted)
    assert not border(torch.ones(1, 6, 6)).any()


@pytest.mark.parametrize("size", [1, 4, 6])
def test_errors_of_pixels_are_scikit_learns_however_they_are_cut(size):
    logits, labels = drawn()
    task = OfPixels(5)
    pairs = zip(logits.split(size), labels.split(size), strict=True)
    total = torch.stack([task.counts(*pair) for pair in pairs]).double().sum(0)
    assert total.shape == (task.numbers,)
    found, said = task.metrics(total), logits.argmax(1)
    everywhere = torch.ones_like(labels, dtype=torch.bool)
    parts = {"": everywhere, "border_": border(labels), "interior_": ~border(labels)}
    for name, where in parts.items():
        a, b = labels[where].numpy(), said[where].numpy()
        assert found[f"{name}error"] == pytest.approx(100 - 100 * accuracy_score(a, b))
        assert found[f"{name}iou"] == pytest.approx(100 * jaccard_score(a, b, average="macro"))
        assert 5 < found[f"{name}error"] < 95
    assert found["loss"] == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)


def test_without_a_border_there_is_no_error_there():
    logits, labels = drawn()
    task = OfPixels(5)
    assert {*task.metrics(task.counts(logits, torch.zeros_like(labels)).double())} == {
        *("error", "loss", "iou", "interior_error", "interior_iou")
    }


def test_a_label_an_image_is_a_label_of_one_pixel():
    logits, labels = torch.randn(9, 5, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 5
    whole = OfImages().metrics(OfImages().counts(logits, labels).double())
    pixels = OfPixels(5)
    assert pixels.metrics(pixels.counts(logits[..., None, None], labels[:, None, None]).double())["error"] == (
        pytest.approx(whole["error"])
    )


def test_the_loop_learns_labels_per_pixel():
    """A network of three convolutions learns where digits are; the running error is that of pixels."""
    torch.manual_seed(0)
    data = scenes(
        torch.device("cpu"), size=24, digits=10, images=64, test_images=16, seed=0, validation=0, subset=None
    )
    convs = [nn.Conv2d(1, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 11, 3, 1, 1)]
    net = nn.Sequential(*convs)
    recipe = Recipe(
        batch=16, iterations=40, rate=0.1, momentum=0.9, nesterov=False, decay=0.0, decay_on="all",
        schedule_on=None, warmup=Warmup(rate=0.1, until_error=0, share=0, from_depth=0), schedule={}, optimizer={},
    )  # fmt: skip
    state = State(net, sgd(net, recipe))
    keys = {"depth": 3, "steps": 40, "seed": 0, "splits": ("test",), "autocast": nullcontext}
    records = [r for r in train(state, data, recipe, lambda step, steps: 1.0, **keys) if r]
    first, last = records[0], records[-1]
    assert {"test_error", "test_loss", "test_iou", "test_border_error", "test_border_iou"} <= {*last}
    x, y = data.first("test", 16)
    blank = 100 * (y != 0).double().mean().item()  # the error of those who see background alone
    assert last["test_error"] < blank
    assert last["train_error"] < first["train_error"]
    assert last["test_border_error"] > last["test_error"]
    (*_, again) = evaluate(net, data.evaluate("test", 5), data.task, nullcontext)
    with torch.no_grad():
        assert again["error"] == pytest.approx(100 * (net(x).argmax(1) != y).double().mean().item())
