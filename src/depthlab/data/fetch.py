"""A download by another program: watched, shown, and left for another source when it crawls."""

import logging
import os
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

CRAWL = 200_000
"""Bytes a second below which a download is left, if another source remains."""
PATIENCE = 30.0
"""Seconds over which the speed is averaged."""
POLL = 0.2
"""Seconds between two looks at the folder."""


class Failed(Exception):
    """A source that did not deliver; its text says why, in a few words."""


def download(command: list[str], folder: Path, *, title: str, total: int, patient: bool) -> None:
    """Run a command in a folder of its own and wait until it ends, showing how the folder grows to `total` bytes.

    Failed if the command fails, with the reason that it gave, or, unless patient, if the folder grows by less than
    CRAWL bytes a second. However this function is left, the command no longer runs.
    """
    logging.getLogger(__name__).info("downloading %s (%.0f MB)", title, total / 1e6)
    quiet = subprocess.DEVNULL
    with (
        tempfile.TemporaryFile("w+") as said,
        tqdm(total=total, unit="B", unit_scale=True, desc=title, disable=None) as bar,
    ):
        process = subprocess.Popen(command, cwd=folder, stdin=quiet, stdout=quiet, stderr=said)
        try:
            since, before = time.monotonic(), 0
            while process.poll() is None:
                time.sleep(POLL)
                size = min(grown(folder), total)
                bar.update(size - bar.n)
                if patient or size == total or time.monotonic() < since + PATIENCE:
                    continue
                if size - before < CRAWL * PATIENCE:
                    raise Failed(f"only {(size - before) / PATIENCE / 1000:.0f} kB/s")
                since, before = time.monotonic(), size
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            said.seek(0)
            raise Failed(reason(said.read()) or f"it ended with {process.returncode}")


def grown(folder: Path) -> int:
    """The bytes in a folder, while another program moves its files about."""
    size = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += os.path.getsize(os.path.join(where, name))
    return size


def reason(said: str) -> str:
    """The telling line of an error output: npm's error code, else the last, where Python names the exception."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if "error code" in line), lines[-1] if lines else "")
