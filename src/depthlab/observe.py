"""Watching a run: the console, the progress bar, TensorBoard, signals, how long it will take."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

log = logging.getLogger("depthlab")


class Console(logging.Handler):
    """Log lines on standard output, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stdout)
        except BrokenPipeError:  # as in `python train.py | head`, which must not end the run
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def log_to_console() -> None:
    """What depthlab says goes to the console; what it says for the log file only (debug) does not. Once is enough."""
    if not any(isinstance(handler, Console) for handler in log.handlers):
        log.addHandler(Console(logging.INFO))
        log.setLevel(logging.DEBUG)
        log.propagate = False


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """What the console says also goes into the file at `path`."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


class Interruption:
    """The first Ctrl-C or SIGTERM, remembered in `.signal` until the loop can save; a second one ends at once."""

    def __init__(self, *, tells: bool = True) -> None:
        self.signal: int | None = None
        self.tells = tells
        self.waits, self.broke = True, False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise SystemExit(128 + number)
        self.signal = number
        if not self.waits:
            self.broke = True
            raise KeyboardInterrupt
        if self.tells:
            os.write(2, b"\nstopping after this iteration; once more stops at once\n")

    @contextmanager
    def watching(self) -> Iterator["Interruption"]:
        """Signals are remembered inside; outside they do what they did before. Only a main thread hears any."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, the first signal ends the block, without what it has not done yet."""
        self.waits = False
        try:
            yield
        except KeyboardInterrupt:
            if self.signal is None:
                raise
        finally:
            self.waits = True


class Progress:
    """A bar with error, images/s and time left where there is a terminal; once, how long the run will take."""

    def __init__(
        self,
        name: str | None,
        steps: int,
        done: int,
        batch: int,
        evaluations: float,
        report: Callable[[], dict[str, float]],
    ) -> None:
        """`evaluations`: the cost of all those to come, in iterations; `report()` gives the metrics so far."""
        self.bar = tqdm(
            desc=name,
            total=steps * batch,
            initial=done * batch,
            unit=" images",
            unit_scale=True,
            disable=None,
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


class TensorBoard:
    """Metrics as scalars against iterations, and the hyper-parameters, all in the run's own directory."""

    def __init__(self, path: Path, purge_step: int, hyperparameters: dict[str, Any]) -> None:
        """`purge_step`: what an earlier, interrupted start wrote from there on is void."""
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.writer = SummaryWriter(str(path), purge_step=purge_step, flush_secs=10)
        overlay = {name: ["Multiline", [f"{name}/train", f"{name}/test"]] for name in ("error", "loss")}
        self.writer.add_custom_scalars({"train and test": overlay})
        file = self.writer._get_file_writer()
        for part in hparams(hyperparameters, dict.fromkeys(("error/train", "error/test"))):
            file.add_summary(part)  # pyrefly: ignore[missing-attribute]

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """train_error becomes error/train, test_loss loss/test, lr learning_rate."""
        for key, value in metrics.items():
            split, _, kind = key.rpartition("_")
            if kind in ("error", "loss"):
                self.writer.add_scalar(f"{kind}/{split}", value, step)
            elif key == "lr":
                self.writer.add_scalar("learning_rate", value, step)

    def look(self, probe: str, step: int, values: dict[str, Any]) -> None:
        """What a probe has measured: numbers as scalars, lists of numbers as a figure."""
        from depthlab.reports.profile import sketch

        for key, value in values.items():
            if isinstance(value, int | float):
                self.writer.add_scalar(f"probe/{probe}/{key}", value, step)
        figure = sketch(values)
        if figure is not None:
            self.writer.add_figure(f"probe/{probe}", figure, step)

    def flush(self) -> None:
        """Hands all to the system, as a checkpoint must not be ahead of what is shown."""
        self.writer.flush()

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, *error: object) -> None:
        self.writer.close()
