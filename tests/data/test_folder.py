"""Own images: digits as files and as arrays, what is found by itself, what is refused, and the run's name."""

import json
import os
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import depthlab.data
from conftest import bomb
from depthlab.errors import Mistake

CPU = torch.device("cpu")
KEYS = {"content": None, "augment": False, "normalize": "channel", "validation": 0, "subset": None}


def folder(root, **keys):
    return depthlab.data.folder(CPU, root=str(root), **KEYS | keys)


def digits():
    """The embedded digits, 0 to 16, by NAMES of an .npz."""
    data = depthlab.data.digits(CPU, augment=False, normalize="none", validation=0, subset=None)
    parts = {}
    for split in ("train", "test"):
        ((x, y),) = data.evaluate(split, 2000)
        parts |= {f"x_{split}": (x[:, 0] * 16).numpy().astype(np.uint8), f"y_{split}": y.numpy()}
    return parts


def as_files(root, parts, mode="L", suffix="png"):
    for split in ("train", "test"):
        for i, (x, y) in enumerate(zip(parts[f"x_{split}"], parts[f"y_{split}"], strict=True)):
            file = root / split / f"class {y}" / f"{i:04}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x * 15).convert(mode).save(file)


@pytest.fixture
def few(tmp_path):
    """Eight images of two classes, as files."""
    noise = np.random.default_rng(0).integers(0, 17, (8, 6, 9), dtype=np.uint8)
    y = np.arange(8) % 2
    as_files(tmp_path, {"x_train": noise, "y_train": y, "x_test": noise[:2], "y_test": y[:2]})
    return tmp_path


def whole(data, split="train"):
    ((x, y),) = data.evaluate(split, 2000)
    return x, y


def test_arrays_give_the_very_batches_of_digits(tmp_path):
    parts = digits()
    np.savez(tmp_path / "a.npz", **{n: p / np.float32(16) if n[0] == "x" else p for n, p in parts.items()})
    ours = folder(tmp_path / "a.npz", validation=100)
    keys = {"augment": False, "normalize": "channel", "validation": 100, "subset": None}
    theirs = depthlab.data.digits(CPU, **keys)
    assert (ours.classes, ours.shape, ours.images) == (theirs.classes, theirs.shape, theirs.images)
    for (x, y), (a, b), _ in zip(ours.batches(64, seed=1), theirs.batches(64, seed=1), range(30), strict=False):
        assert torch.equal(x, a)
        assert torch.equal(y, b)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_files_are_the_arrays_sorted_by_class(mode, tmp_path):
    parts = {name: part[:60] for name, part in digits().items()}
    as_files(tmp_path, parts, mode)
    np.savez(tmp_path / "a.npz", **{name: part * 15 if name[0] == "x" else part for name, part in parts.items()})
    files, arrays = folder(tmp_path), folder(tmp_path / "a.npz")
    assert files.shape == (3 if mode == "RGB" else 1, 8, 8)
    for split in ("train", "test"):
        (x, y), (a, b) = whole(files, split), whole(arrays, split)
        order = b.argsort(stable=True)
        assert torch.equal(y, b[order])
        assert torch.allclose(x, a[order].expand_as(x), atol=1e-6)


def test_height_and_width_are_found(few):
    data = folder(few, augment=True)
    assert (data.shape, data.classes, data.images, data.size("test")) == ((1, 6, 9), 2, 8, 2)
    assert next(data.batches(4, seed=0))[0].shape == (4, 1, 6, 9)


def test_one_colour_image_makes_three_channels(few):
    Image.new("RGB", (9, 6), "red").save(few / "train" / "class 0" / "red.png")
    assert folder(few).shape == (3, 6, 9)


def test_hidden_folders_and_other_files_are_passed_over(few):
    before = depthlab.data.content(str(few), None)
    (few / "train" / ".ipynb_checkpoints").mkdir()
    (few / "train" / "class 0" / ".hidden.png").touch()
    (few / "train" / "class 0" / "notes.txt").touch()
    assert folder(few).classes == 2
    assert depthlab.data.content(str(few), None) == before


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda root: (root / "train" / "b").mkdir(), "only train has a class b"),
        (lambda root: (root / "test" / "b").mkdir(), "only test has a class b"),
        (lambda root: [(root / s / "b").mkdir() for s in ("train", "test")], "the class train/b has no images"),
        (lambda root: (root / "test").rename(root / "val"), "expected a folder that holds.*; it holds train, val"),
        (
            lambda root: Image.new("L", (8, 6)).save(root / "train" / "class 1" / "x.png"),
            "train/class 1/x.png has 6x8 pixels, train/class 0/0000.png 6x9; resize them to one size",
        ),
        (lambda root: (root / "train" / "class 0" / "x.png").write_text("x"), "x.png cannot be decoded"),
        (lambda root: (root / "train" / "class 0" / "x.png").write_bytes(bomb(65_000, 65_000)), "no image to decode"),
        (
            lambda root: Image.fromarray(np.zeros((6, 9), np.uint16)).save(root / "train" / "class 0" / "x.png"),
            "more than 8 bits a channel",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(change, text, few):
    change(few)
    with pytest.raises(Mistake, match=text) as mistake:
        folder(few)
    assert "\n" not in str(mistake.value)


GOOD = {"x_train": np.zeros((2, 3, 3), np.uint8), "y_train": np.arange(2)}
GOOD |= {"x_test": GOOD["x_train"], "y_test": GOOD["y_train"]}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"x_train": np.zeros((2, 3), np.uint8)}, r"images of uint8 \(2, 3\)"),
        ({"x_train": np.zeros((2, 3, 3), np.int64)}, "images of int64"),
        ({"x_train": np.full((2, 3, 3), np.nan)}, "not finite"),
        ({"x_train": np.full((2, 3, 3), 1e300)}, "too large for float32"),
        ({"x_test": np.zeros((2, 4, 3), np.uint8)}, r"images of \(3, 3, 1\) to train on, of \(4, 3, 1\) to test on"),
        ({"x_test": np.zeros((2, 3, 3), np.float32)}, "one side of the images are bytes, 0 to 255, the other floats"),
        ({"y_train": np.arange(3)}, "3 labels of int64"),
        ({"y_train": np.array([0.0, 1.0])}, "2 labels of float64"),
        ({"y_train": np.array([-1, 1])}, "a whole number from 0 on"),
        ({"y_train": np.array([0, 2])}, "only y_test has the label 1"),
        ({"y_test": np.array([0, 2])}, "only y_train has the label 1"),
        ({"y_train": np.array([0, 2**62])}, "only y_test has the label 1"),
        ({"y_train": np.array([0, 3]), "y_test": np.array([0, 3])}, "no image has the label 1, and one has 3"),
        ({"x_train": np.zeros((2, 3, 8, 8), np.uint8)}, r"images of \(2, 3, 8, 8\): channels come last"),
        ({"x_train": np.zeros((2, 1, 8, 8), np.uint8)}, r"images of \(2, 1, 8, 8\): channels come last"),
        ({"y_test": np.array([None, 2])}, "expected a folder .* or an .npz"),
    ],
)
def test_what_is_wrong_with_arrays_is_named(change, text, tmp_path):
    np.savez(tmp_path / "a.npz", **GOOD | change)
    with pytest.raises(Mistake, match=text) as mistake:
        folder(tmp_path / "a.npz")
    assert "\n" not in str(mistake.value)


def test_a_file_that_holds_something_else_says_what(tmp_path):
    np.savez(tmp_path / "a.npz", images=GOOD["x_train"], labels=GOOD["y_train"])
    np.save(tmp_path / "b.npy", GOOD["x_train"])
    (tmp_path / "c.npz").write_text("x_train y_train")
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as members:
        for name in GOOD:
            members.writestr(name, "no array")
    for name, said in (
        ("a.npz", "it holds images, labels"),
        ("b.npy", "it is no"),
        ("c.npz", "it is no"),
        ("d.npz", "it holds"),
    ):
        with pytest.raises(Mistake, match=f"an .npz with x_train, y_train, x_test, y_test; {said}"):
            folder(tmp_path / name)


def test_no_root_is_told():
    with pytest.raises(Mistake, match=r"data.root=null: expected"):
        depthlab.data.folder(CPU, root=None, **KEYS)


def test_the_images_name_the_run_and_not_their_place(few, command, tmp_path_factory):
    words = ["data=folder", "depth=8", "width=2", "epochs=1", "recipe.batch=4"]

    assert command(*words, f"data.root={few}").code == 0
    (first,) = (path.parent.name for path in few.rglob("outputs/folder/*/summary.json"))
    moved = few.rename(tmp_path_factory.mktemp("elsewhere") / "set")
    outputs = moved / "outputs"
    os.chdir(moved)
    again = command(*words, f"data.root={moved}", f"output_dir={outputs}")
    assert "done before" in again.out
    file = next((moved / "train" / "class 0").iterdir())
    Image.new("L", (9, 6), 7).save(file)
    assert command(*words, f"data.root={moved}", f"output_dir={outputs}").code == 0
    runs = {path.parent.name: path.parent for path in outputs.rglob("summary.json")}
    assert len(runs) == 2
    assert first in runs
    stopped = command(f"config={runs[first] / 'config.yaml'}", f"data.root={moved}", f"output_dir={outputs}")
    assert stopped.code == 2
    assert "now holds other images" in stopped.err
    assert json.loads((runs[first] / "summary.json").read_text())["choices"]["data"] == "folder"


@pytest.mark.parametrize("kind", ["files", "arrays"])
def test_class_by_class_each_class_is_held_out_and_trained_on(tmp_path, kind):
    parts = {name: part[:200] for name, part in digits().items()}
    order = np.argsort(parts["y_train"], kind="stable")
    parts |= {"x_train": parts["x_train"][order], "y_train": parts["y_train"][order]}
    if kind == "files":
        as_files(tmp_path, parts)
    else:
        np.savez(tmp_path / "a.npz", **parts)
    root = tmp_path if kind == "files" else tmp_path / "a.npz"
    data, whole_set = folder(root, validation=60, subset=80), folder(root)
    labels = {split: whole(data, split)[1].tolist() for split in ("train", "validation")}
    assert [len(part) for part in labels.values()] == [80, 60]
    assert all({*part} == {*range(10)} for part in labels.values())
    rows = {tuple(x.flatten().tolist()) for split in labels for x in whole(data, split)[0]}
    assert len(rows) > 130  # hardly two digits are the same, and none is in both parts
    assert whole(whole_set)[1].tolist() == sorted(parts["y_train"].tolist())


def test_a_picture_of_sixteen_bits_a_colour_is_no_picture_of_eight(few):
    """PIL opens it as one of eight and drops the rest."""
    rows = b"".join(b"\0" + bytes(9 * 6) for _ in range(6))
    head = b"IHDR" + (9).to_bytes(4) + (6).to_bytes(4) + bytes([16, 2, 0, 0, 0])
    chunks = [head, b"IDAT" + zlib.compress(rows), b"IEND"]
    body = b"".join((len(c) - 4).to_bytes(4) + c + zlib.crc32(c).to_bytes(4) for c in chunks)
    (few / "train" / "class 0" / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with Image.open(few / "train" / "class 0" / "x.png") as opened:
        assert opened.mode == "RGB"
    with pytest.raises(Mistake, match="more than 8 bits a channel"):
        folder(few)


def test_several_pictures_in_one_file_are_not_its_first(few):
    frames = [Image.new("L", (9, 6), grey) for grey in (0, 99)]
    frames[0].save(few / "train" / "class 0" / "x.tiff", save_all=True, append_images=frames[1:])
    with pytest.raises(Mistake, match="2 images in one file"):
        folder(few)


def test_a_link_to_nowhere_is_named(few):
    (few / "train" / "class 0" / "x.png").symlink_to("nowhere.png")
    with pytest.raises(Mistake, match=r"x\.png: no such file"):
        depthlab.data.content(str(few), None)
