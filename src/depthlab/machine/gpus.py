"""GPUs of its own for each run: locks which the system takes back when the process ends, however it ends."""

import itertools
import os
import tempfile
from pathlib import Path

_mine: list[int] = []


def take(count: int, wanted: int = 1) -> list[int]:
    """So many of `count` visible GPUs as are wanted, its own first, then free ones, this process's until it ends."""
    if count == 1:
        return [0]
    import fcntl

    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = shown.split(",") if shown else list(map(str, range(count)))
    for turn in itertools.count():  # all taken: a second process on each, then a third
        for index, name in enumerate(names[:count]):
            if len(_mine) >= wanted:
                return _mine[:wanted]
            if index in _mine:
                continue
            path = Path(tempfile.gettempdir(), f"depthlab-{os.getuid()}-gpu-{name.replace('/', '_')}-{turn}")
            lock = os.open(path, os.O_CREAT | os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
            else:
                _mine.append(index)
    raise AssertionError
