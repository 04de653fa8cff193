"""Runs in other processes than their sweep's: what a launcher leaves open is closed here."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any, ClassVar

warnings.filterwarnings("ignore", r"\s*'hydra/launcher/")  # as in train.py, which workers do not import

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Failure(Exception):
    """A run's error in one line, which every launcher can hand back; not every error can be pickled."""


@dataclass
class Job:
    """A run, called by a launcher: in the sweep's process, in a worker that does one after another, or elsewhere."""

    task: Callable[[Any], Any]
    typed: list[str] = field(default_factory=lambda: sys.argv)
    stopped: ClassVar[bool] = False
    """Whether this worker was told to stop; it leaves the next runs for another time."""

    def __call__(self, cfg: Any) -> Any:
        sys.argv = self.typed  # so that a stopped run tells what continues it
        try:
            return self.task(cfg) if multiprocessing.parent_process() is None else self._in_worker(cfg)
        except Exception as error:
            raise Failure(one_line(error)) from None

    def _in_worker(self, cfg: Any) -> Any:
        _settle()
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            return None if self.stopped else self.task(cfg)
        except SystemExit:
            Job.stopped = True
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


@cache
def _settle() -> None:
    """Once a worker: only the sweep stops it, by SIGTERM or by its own end; data workers start as usual again."""
    os.setpgid(0, 0)  # Ctrl-C reaches the sweep alone, which hands it on
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    threading.Thread(target=_follow, args=[os.getppid()], daemon=True).start()
    multiprocessing.set_start_method(None, force=True)  # loky's cannot start them


def _follow(sweep: int) -> None:
    while os.getppid() == sweep:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def handing_on() -> Iterator[list[int]]:
    """Inside, what stops the sweep stops the runs of its workers, which save; gives the signals that came.

    This thread blocks them and another one gets them: so workers, which inherit that, hear none before their runs.
    """
    came: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        came.append(number)
        workers = multiprocessing.active_children()
        for worker in workers:
            worker.terminate()
        if not workers:
            sys.exit(128 + number)

    before = {n: signal.signal(n, hand_on) for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN}
    over = threading.Event()
    threading.Thread(target=over.wait).start()
    resource_tracker.ensure_running()  # when it starts, it unblocks them
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield came
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        over.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def one_line(error: object) -> str:
    """The beginning of an error's text, or its kind where it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__
