"""What the console shows of a run: log lines, the progress bar, how long it will take."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

log = logging.getLogger("depthlab")


class Console(logging.Handler):
    """Log lines on standard output, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")  # takes a sweep's line away, which another process draws again
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except BrokenPipeError:  # as in `python train.py | head`, which must not end the run
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def log_to_console() -> None:
    """What depthlab says goes to the console; what it says for the log file only (debug) does not. Once is enough."""
    if not any(isinstance(handler, Console) for handler in log.handlers):
        log.addHandler(Console(logging.INFO))
        log.setLevel(logging.DEBUG)
        log.propagate = False


class LogFile(logging.FileHandler):
    """The log of a run, which leaves out what a full disk does not take: it ends no run."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Says nothing, where logging would print a traceback."""


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """What the console says also goes into the file at `path`."""
    handler = LogFile(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with suppress(OSError):
            handler.close()


class Progress:
    """A bar with error, images/s and time left where there is a terminal; once, how long the run will take."""

    def __init__(
        self,
        shown: bool,
        steps: int,
        done: int,
        batch: int,
        evaluations: float,
        report: Callable[[], dict[str, float]],
    ) -> None:
        """`shown`: not where it is one of many; `evaluations`: the cost of all those to come, in iterations;
        `report()` gives the metrics so far.
        """
        self.bar = tqdm(
            total=steps * batch,
            initial=done * batch,
            unit=" images",
            unit_scale=True,
            disable=None if shown else True,
            leave=False,
        )
        self.batch, self.left, self.report = batch, steps - done + evaluations, report
        self.first: float | None = None
        self.count, self.told, self.shown = 0, False, time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def step(self) -> float | None:
        """After each iteration. Returns the estimated seconds to go, once, when a few iterations have been seen."""
        now = time.monotonic()
        self.bar.update(self.batch)
        if not self.bar.disable and now - self.shown > 0.5:
            self.bar.set_postfix_str(f"train error {self.report()['train_error']:.1f} %", refresh=False)
            self.shown = now
        if self.first is None:  # the first iteration, which is slow, is not counted
            self.first = now
            return None
        self.count += 1
        if self.told or (now - self.first < 2 and self.count < 20):
            return None
        self.told = True
        return (now - self.first) / self.count * (self.left - 1 - self.count)

    def close(self) -> None:
        """Takes the bar away."""
        self.bar.close()


@contextmanager
def overall(costs: Sequence[float], shares: Callable[[], Sequence[float]], timed: bool) -> Iterator[None]:
    """Inside, where there is a terminal, one line for a whole sweep: the runs that are done and, if `timed`, the time
    left.

    `costs`: of each run, in any unit; `shares()`: how much of each is done, from 0 to 1; it is asked each second.
    """

    def draw() -> None:
        now = shares()
        bar.n = sum(cost * share for cost, share in zip(costs, now, strict=True))
        bar.set_description_str(f"{sum(share == 1 for share in now)} of {len(now)} runs")

    def watch() -> None:
        while not over.wait(1):
            draw()

    left, over = ", {remaining} to go" if timed else "", threading.Event()
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}" + left
    with tqdm(total=sum(costs), bar_format=form, smoothing=0, disable=None, leave=False) as bar:
        if bar.disable:
            yield
            return
        draw()
        bar.initial, thread = bar.n, threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            draw()
