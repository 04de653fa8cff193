"""The last state of a run on the disk: network, momentum, position, random streams."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any, BinaryIO
from warnings import catch_warnings

import torch

from depthlab.errors import Mistake
from depthlab.machine.files import replacing
from depthlab.training.loop import State

log = logging.getLogger("depthlab")

DIGITS = 64
"""Hexadecimal digits of a SHA-256."""


class Damaged(Mistake):
    """A checkpoint that cannot be read, or whose content is not what was written."""


def save(path: Path, state: State, *, keep: Path | None = None, **more: Any) -> None:
    """Replaces the checkpoint at `path` atomically with `state`, the random streams, and `more`; the one that was
    there is kept at `keep`.
    """
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        random["cuda"] = torch.cuda.get_rng_state()
    with replacing(path, keep) as file:
        try:
            torch.save(state.to_dict() | {"random": random} | more, file)
        except RuntimeError as error:  # of torch's zip writer, when it closes a file on a full disk
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        _seal(file)


def load(path: Path, state: State, **expected: Any) -> dict[str, Any]:
    """Puts the checkpoint at `path` into `state` and the random streams; returns what `more` was at `save`.

    Raises Damaged on a damaged file, Mistake where a value differs from the `expected` one. Runs no code from the
    file.
    """
    try:
        device = next(state.net.parameters()).device
        with path.open("rb") as file:
            _check(file)
            with catch_warnings(action="ignore"):  # what it thinks of a file from elsewhere
                saved = torch.load(file, map_location=device, weights_only=True)
        for key, value in expected.items():
            if saved[key] != value:
                raise Mistake(f"{path}: a checkpoint of another config; delete it to start this run anew")
        state.load(saved)
        torch.set_rng_state(saved["random"]["cpu"].cpu())
        if "cuda" in saved["random"] and device.type == "cuda":
            torch.cuda.set_rng_state(saved["random"]["cuda"].cpu())
    except Mistake:
        raise
    except Exception as error:  # torch.load and load_state_dict raise anything on a damaged file
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise Damaged(f"{path}: damaged ({reason}); delete it to start this run anew") from error
    return saved


def resume(path: Path, previous: Path, state: State, **expected: Any) -> dict[str, Any] | None:
    """As `load`, of the checkpoint at `path` or, where that is damaged or absent, of the `previous` one, which then
    takes its place; None where neither is there. Raises Damaged if no sound one is left.
    """
    damage = None
    if path.exists():
        try:
            return load(path, state, **expected)
        except Damaged as damaged:
            damage = damaged
            if not previous.exists():
                raise
    if not previous.exists():
        return None
    try:
        saved = load(previous, state, **expected)
    except Damaged:
        if damage is None:
            raise
        raise Damaged(f"{damage} together with {previous.name}, which is damaged too") from None
    if damage is not None:
        log.warning("%s is damaged: going on from %s, saved at iteration %d", path, previous.name, state.step)
    previous.replace(path)
    return saved


def _seal(file: BinaryIO) -> None:
    """Ends a zip file, as torch writes it, with a comment: the SHA-256 of all before. Other programs skip it."""
    file.seek(-2, os.SEEK_END)
    file.write(DIGITS.to_bytes(2, "little"))  # how long the comment is
    file.write(_digest(file, file.tell()))


def _check(file: BinaryIO) -> None:
    """Raises ValueError where a file is not what was sealed; one that never was, as of older versions, passes."""
    size = file.seek(0, os.SEEK_END) - DIGITS
    file.seek(max(0, size - 2))
    if int.from_bytes(file.read(2), "little") == DIGITS and file.read() != _digest(file, size):
        raise ValueError("its content is not what was written")
    file.seek(0)


def _digest(file: BinaryIO, size: int) -> bytes:
    """Of the first `size` bytes, behind which it leaves the file."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (chunk := file.read(min(size, 1 << 20))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest().encode()
