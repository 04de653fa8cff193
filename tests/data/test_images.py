"""ImageNet-like folders, on a few generated files."""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.v2.functional import resize

import depthlab
import depthlab.data
from conftest import ROOT, bomb
from depthlab.data.dataset import generator, share
from depthlab.data.images import COLORS, SPREAD, colors, decode, kind, scaled
from depthlab.errors import Mistake
from depthlab.training import loop

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
    keys = {"size": 28, "augment": "aspect", "color": False, "crops": 1} | keys
    keys = {"workers": 0, "validation": 0, "subset": None} | keys
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


def test_the_parts_of_several_processes_are_the_whole(folder):
    data = imagenet(folder)
    mine = [share(data, (place, 2)) for place in range(2)]
    whole = taken(data.batches(4, seed=2), 4)
    slices = [[x.view(4, 2, *x.shape[1:]) for x in taken(part.batches(4, seed=2), 4)] for part in mine]
    assert all(
        torch.equal(a, torch.cat(b, 1).flatten(0, 1)) for a, b in zip(whole, zip(*slices, strict=True), strict=True)
    )
    assert [[len(y) for _, y in part.evaluate("test", 5)] for part in mine] == [[2], [3, 1]]  # 5 images, then 1


def test_evaluation_is_a_centre_crop_normalised(folder):
    x, y = taken(imagenet(folder).evaluate("test", 4))
    assert y.tolist() == [0, 0, 0, 1, 1, 1]
    with Image.open(folder / "val" / "cat" / "0.jpg") as image:
        whole = image.resize((round(40 * 32 / 30 - 0.5), 32), Image.Resampling.BILINEAR)
    left = (whole.width - 28) // 2
    expected = torch.tensor(np.array(whole)[2:30, left : left + 28]).permute(2, 0, 1)
    torch.testing.assert_close(x[0], normal(expected), atol=0.02, rtol=0)


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
    with pytest.raises(Mistake, match=r"data.validation=10: from 0 to 9"):
        imagenet(folder, validation=10)
    with pytest.raises(Mistake, match=r"data.workers=-1: from 0 to"):
        imagenet(folder, workers=-1)
    with pytest.raises(Mistake, match=r"recipe.batch=11: from 1 to 10"):
        imagenet(folder).batches(11, seed=0)
    with pytest.raises(Mistake, match="split=validation"):
        imagenet(folder).evaluate("validation", 4)


def pil(path):
    with Image.open(path) as image:
        return torch.tensor(np.array(image.convert("RGB"))).permute(2, 0, 1)


def normal(pixels):
    """Bytes (..., 3, height, width) as the network gets them."""
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    return (pixels / 255 - mean) / deviation


def pixels_of(x):
    """The bytes that were normalised to x."""
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    return (255 * (x * deviation + mean)).round().byte()


SMOOTH = np.linspace(0, 255, 32 * 48 * 4).reshape(32, 48, 4).astype(np.uint8)
MODES = {"RGB": SMOOTH[..., :3], "L": SMOOTH[..., 0], "CMYK": SMOOTH, "RGBA": SMOOTH, "LA": SMOOTH[..., :2]}
KINDS = ["RGB.jpg", "L.jpg", "CMYK.jpg", "RGB.png", "L.png", "LA.png", "RGBA.png", "RGB.webp", "RGB.bmp", "CMYK.tif"]


@pytest.mark.parametrize("file", KINDS)
def test_every_image_has_three_channels_and_the_bytes_of_pil(tmp_path, file):
    mode, path = file.split(".")[0], tmp_path / file
    Image.fromarray(np.ascontiguousarray(MODES[mode]), mode=None if mode != "CMYK" else mode).save(path)
    image, expected = decode(str(path)), pil(path)
    assert (image.dtype, image.shape) == (torch.uint8, (3, 32, 48))
    assert (image.int() - expected.int()).abs().max() <= (2 if path.suffix == ".jpg" else 0)


def test_a_format_is_known_by_its_bytes_and_odd_ones_go_to_pil(tmp_path, monkeypatch):
    Image.fromarray(SMOOTH[..., :3].copy()).save(tmp_path / "png.jpg", "PNG")
    frames = [Image.fromarray(SMOOTH[..., i].copy()) for i in range(2)]
    frames[0].save(tmp_path / "two.png", "GIF", save_all=True, append_images=frames[1:])
    Image.fromarray(SMOOTH[..., :3].copy()).save(tmp_path / "usual.png")
    for name in ("png.jpg", "two.png"):
        assert torch.equal(decode(str(tmp_path / name)), pil(tmp_path / name))
    monkeypatch.delattr("torchvision.io.decode_image")
    assert torch.equal(decode(str(tmp_path / "usual.png")), pil(tmp_path / "usual.png"))


@pytest.mark.parametrize(("kind", "file"), [(np.uint16, "16.png"), (np.uint16, "16.tif"), (np.float32, "f.tif")])
def test_a_grey_of_more_than_8_bits_is_refused(tmp_path, kind, file):
    Image.fromarray(SMOOTH[..., 0].astype(kind)).save(tmp_path / file)
    with pytest.raises(Mistake, match="more than 8 bits a grey"):
        decode(str(tmp_path / file))


def test_a_photograph_that_holds_a_second_one_is_read_as_any_jpeg(tmp_path):
    first, second = (Image.fromarray(np.ascontiguousarray(x)) for x in (SMOOTH[..., :3], SMOOTH[..., 1:]))
    first.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[second])
    first.save(tmp_path / "plain.jpg", "JPEG")
    assert kind(str(tmp_path / "phone.jpg")) == "MPO"
    assert torch.equal(decode(str(tmp_path / "phone.jpg")), decode(str(tmp_path / "plain.jpg")))


@pytest.mark.parametrize("name", ["a.gif", "gif.jpg"])
def test_no_gif_reaches_torchvisions_decoder(tmp_path, monkeypatch, name):
    Image.fromarray(SMOOTH[..., :3].copy()).save(tmp_path / name, "GIF")
    monkeypatch.setattr("torchvision.io.decode_image", lambda *_, **__: pytest.fail("it did"))
    assert decode(str(tmp_path / name)).shape == (3, 32, 48)


@pytest.mark.parametrize("odd", ["ICNS", "TGA", "SGI", "PCX", "DDS", "JPEG2000"])
def test_formats_that_no_data_set_uses_are_refused(tmp_path, odd):
    path = tmp_path / "a.jpg"
    Image.fromarray(SMOOTH[..., :3].copy()).save(path, odd)
    with pytest.raises(Mistake, match=r"a\.jpg cannot be decoded \(cannot identify image file"):
        decode(str(path))


@pytest.mark.parametrize(("workers", "kept"), [(0, 0), (0, 12), (0, 400), (1, 400)])
def test_a_broken_file_is_a_mistake_that_names_it(folder, tmp_path, workers, kept):
    shutil.copytree(folder, tmp_path / "broken")
    path = tmp_path / "broken" / "val" / "dog" / "1.jpg"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(Mistake) as mistake:
        taken(imagenet(tmp_path / "broken", workers=workers).evaluate("test", 4))
    assert re.fullmatch(rf"data\.root: {re.escape(str(path))} cannot be decoded \(.+\)", str(mistake.value))


def test_scale_draws_the_short_side_from_256_to_480_of_224():
    wide, high = torch.zeros(3, 30, 45, dtype=torch.uint8), torch.zeros(3, 45, 30, dtype=torch.uint8)
    torch.manual_seed(0)
    for image, index in ((wide, 1), (high, 2)):
        shapes = [scaled(image, size=14).shape for _ in range(300)]
        counts = [sum(shape[index] == short for shape in shapes) for short in range(16, 31)]
        assert sum(counts) == 300
        assert sum((count - 20) ** 2 / 20 for count in counts) < 36.1  # chi squared, 14 degrees: 1 in 1,000
        assert all(shape[3 - index] == shape[index] * 45 // 30 for shape in shapes)


@pytest.mark.parametrize("keys", [{"augment": "scale"}, {"augment": "scale", "color": True}, {"color": True}])
def test_augmentation_is_a_function_of_seed_epoch_and_image(folder, keys):
    before = torch.get_rng_state()
    data = imagenet(folder, **keys)
    x, y = taken(data.batches(4, seed=5), 5)
    assert x.shape == (20, 3, 28, 28)
    for workers, start in ((0, 2), (1, 2)):
        rest = taken(imagenet(folder, workers=workers, **keys).batches(4, seed=5, start=start), 5 - start)
        assert torch.equal(rest[0], x[4 * start :])
        assert torch.equal(rest[1], y[4 * start :])
    one = taken(imagenet(folder, subset=1, **keys).batches(1, seed=5), 6)[0]
    assert len({image.sum().item() for image in one}) == 6
    assert not torch.equal(taken(data.batches(4, seed=6), 5)[0], x)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(taken(data.batches(10, seed=5), 2)[0], x)


def test_scale_cuts_a_window_from_the_resized_image_and_mirrors_half(folder, tmp_path):
    """With size 4 the short side is 5 to 9 pixels; all windows of all sizes, both ways round, are few."""
    for part in ("train", "val"):
        (tmp_path / part / "cat").mkdir(parents=True)
        pixels = np.random.default_rng(1).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / part / "cat" / "0.png")
    whole = pil(tmp_path / "train" / "cat" / "0.png")
    windows = {}
    for short in range(5, 10):
        resized = resize(whole, [short])
        for top, left in itertools.product(range(short - 3), range(resized.shape[2] - 3)):
            window = resized[:, top : top + 4, left : left + 4]
            windows |= {str(image.tolist()): flip for flip, image in enumerate((window, window.flip(2)))}
    images = taken(imagenet(tmp_path, size=4, augment="scale").batches(1, seed=0), 200)[0]
    drawn = [windows[str(image.tolist())] for image in pixels_of(images)]
    assert 70 <= sum(drawn) <= 130


def test_colors_vary_along_the_principal_components():
    vectors, values = torch.tensor(COLORS), torch.tensor(SPREAD)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(3), atol=2e-4, rtol=0)
    drawn = colors(20_000, torch.Generator().manual_seed(0)) @ vectors / values
    torch.testing.assert_close(drawn.mean(0), torch.zeros(3), atol=3e-3, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), 0.01 * torch.eye(3), atol=4e-4, rtol=0)


def test_color_adds_one_colour_to_all_pixels_of_a_training_image(folder):
    plain, colored = (taken(imagenet(folder, color=color).batches(4, seed=3), 5)[0] for color in (False, True))
    added = (colored - plain) * torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(added))
    assert len({round(image.mean().item(), 6) for image in added}) == 20
    torch.testing.assert_close(added[:10, :, 0, 0], colors(10, generator(3, 0, 0, 1)))
    tested = (taken(imagenet(folder, color=color).evaluate("test", 6))[0] for color in (False, True))
    assert torch.equal(*tested)


def test_ten_crops_are_the_corners_the_centre_and_their_mirrors(folder):
    batches = [*imagenet(folder, crops=10).evaluate("test", 25)]
    assert [(x.shape[0], len(y)) for x, y in batches] == [(20, 2)] * 3
    x = torch.cat([x for x, _ in batches])
    assert torch.cat([y for _, y in batches]).tolist() == [0, 0, 0, 1, 1, 1]
    files = sorted((folder / "val").glob("*/*.jpg"))
    for views, file in zip(x.split(10), files, strict=True):
        image = normal(resize(decode(str(file)), [32]))
        down, right = image.shape[1] - 28, image.shape[2] - 28
        corners = [(0, 0), (0, right), (down, 0), (down, right), (round(down / 2), round(right / 2))]
        crops = [image[:, top : top + 28, left : left + 28] for top, left in corners]
        mirrored = image.flip(2)
        crops += [mirrored[:, top : top + 28, left : left + 28] for top, left in corners]
        torch.testing.assert_close(views, torch.stack(crops))
    assert [len(x) for x, _ in imagenet(folder, crops=10).evaluate("test", 4)] == [10] * 6


def test_what_a_probe_sees_is_the_centre_crop(folder):
    x, y = next(imagenet(folder).evaluate("test", 4))
    for data in (imagenet(folder), imagenet(folder, crops=10), imagenet(folder, workers=1)):
        first = data.first("test", 4)
        assert torch.equal(first[0], x)
        assert torch.equal(first[1], y)
    with pytest.raises(Mistake, match="split=validation"):
        imagenet(folder).first("validation", 4)


class Constant(nn.Module):
    """The same logits for every image."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, x):
        return self.logits.expand(len(x), -1)


def test_ten_crops_change_nothing_where_the_network_is_constant(folder):
    sets = [imagenet(folder, crops=crops) for crops in (1, 10)]
    one, ten = ([*loop.evaluate(Constant(), s.evaluate("test", 20), s.task, nullcontext)][-1] for s in sets)
    assert one["error"] == ten["error"] == 50
    assert one["loss"] == pytest.approx(ten["loss"], rel=1e-6)


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


@pytest.mark.skipif(os.name != "posix", reason="no process groups")
def test_a_signal_to_the_whole_group_stops_and_saves(folder, tmp_path):
    options = ["data=imagenet", f"data.root={folder}", "data.size=28", "data.workers=2", "depth=18", "width=4"]
    options += ["recipe.batch=2", "recipe.iterations=100000", "epochs=null", "threads=1", f"output_dir={tmp_path}"]
    start = [sys.executable, str(ROOT / "train.py"), *options]
    run = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        until = time.monotonic() + 120
        while not [p for p in tmp_path.rglob("metrics.jsonl") if p.stat().st_size]:
            assert time.monotonic() < until
            assert run.poll() is None, run.communicate()
            time.sleep(0.1)
        os.killpg(run.pid, signal.SIGTERM)
        out, err = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 143, err
    assert err.strip() == "stopping after this iteration; once more stops at once"
    assert "stopped and saved at iteration" in out


def test_a_run_is_read_back_wherever_its_images_lie_now(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "set")
    words = "data.size=28 data.workers=0 depth=18 width=4 recipe.batch=2 epochs=0 threads=1"
    summary = depthlab.run(f"data=imagenet data.root=set {words}")
    (tmp_path / "set").rename(tmp_path / "moved")
    loaded = depthlab.load(depthlab.runs()[0]["path"], root="moved")
    assert sum(p.numel() for p in loaded.net.parameters()) == summary["parameters"]
    assert len(loaded.data.first("test", 2)[0]) == 2
