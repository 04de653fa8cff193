"""Runs in other processes than their sweep's: what a launcher leaves open is closed here; one run in several."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import connection, resource_tracker
from types import FrameType
from typing import Any, ClassVar

warnings.filterwarnings("ignore", r"\s*'hydra/launcher/")  # as in command/cli.py, which workers need not import

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPING = b"\nstopping after this iteration; once more stops at once\n"
GRACE = 10.0
"""Seconds that the processes of a run have to end when one of them has."""


class Failure(Exception):
    """A run's error in one line, which every launcher can hand back; not every error can be pickled."""


@dataclass
class Job:
    """A run, called by a launcher: in the sweep's process, in a worker that does one after another, or elsewhere."""

    task: Callable[[Any], Any]
    typed: list[str] = field(default_factory=lambda: sys.argv)
    stopped: ClassVar[bool] = False
    """Whether this worker was told to stop; it leaves the next runs for another time."""
    running: ClassVar[bool] = False

    def __call__(self, cfg: Any) -> Any:
        sys.argv = self.typed  # so that a stopped run tells what continues it
        try:
            return self.task(cfg) if multiprocessing.parent_process() is None else self._in_worker(cfg)
        except Exception as error:
            raise Failure(one_line(error)) from None

    def _in_worker(self, cfg: Any) -> Any:
        _settle()
        Job.running = True
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            return None if self.stopped else self.task(cfg)
        except SystemExit:
            Job.stopped = True
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            Job.running = False


@cache
def _settle() -> None:
    """Once a worker: only the sweep stops it, by SIGTERM or by its own end; data workers start as usual again."""
    os.setpgid(0, 0)  # Ctrl-C reaches the sweep alone, which hands it on
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    multiprocessing.set_start_method(None, force=True)  # loky's cannot start them


def _end_with(sweep: int) -> None:
    _follow(sweep)
    while Job.running:
        time.sleep(0.1)
    os._exit(128 + signal.SIGTERM)  # an idle worker hears no signal


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
        if workers and len(came) == 1:
            os.write(2, STOPPING)
        for worker in workers:
            worker.terminate()
        if not workers:
            sys.exit(128 + number)

    before = {n: signal.signal(n, hand_on) for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN}
    over = threading.Event()
    threading.Thread(target=over.wait).start()
    try:
        with unheard():
            yield came
    finally:
        over.set()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def unheard() -> Iterator[None]:
    """Inside, signals wait. Processes that are started inside inherit that, until they call `leave_group`."""
    resource_tracker.ensure_running()  # when it starts, it unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_group(handler: Any = signal.SIG_DFL) -> None:
    """What is sent to all processes of the command is not for this one; `handler` gets what is sent to it alone."""
    os.setpgid(0, 0)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # forgets what came before
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def together(job: Callable[[int], Any], count: int) -> None:
    """Calls job(0) to job(count - 1) at once, each in a process of its own, and waits for their end.

    A signal goes to the first alone, which tells the others; SystemExit if they stop for it. Raises the error of the
    process that failed, ConnectionError if one was killed; when one ends, the others must end too.
    """
    context = multiprocessing.get_context("spawn")
    raised = context.SimpleQueue()
    made = [context.Process(target=_call, args=(job, rank, raised)) for rank in range(count)]

    def hand_on(number: int, frame: FrameType | None) -> None:
        if made[0].is_alive() and made[0].pid:
            os.kill(made[0].pid, number)

    main = threading.current_thread() is threading.main_thread()  # else another one hears the signals
    before = {number: signal.signal(number, hand_on) for number in SIGNALS if main}
    try:
        with unheard():
            for process in made:
                process.start()
        connection.wait([process.sentinel for process in made])
        end = time.monotonic() + GRACE
        for process in made:
            process.join(max(0.0, end - time.monotonic()))
    finally:
        codes = [process.exitcode for process in made]
        for process in made:
            if process.pid:
                process.kill()
                process.join()
        for number, handler in before.items():
            signal.signal(number, handler)

    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            raise ConnectionError(f"process {rank + 1} of {count} was killed by signal {-code}")
    stopped = [code for code in codes if code and code > 128]
    errors: list[Exception] = []
    while not raised.empty():
        errors.append(raised.get())
    errors.sort(key=lambda error: isinstance(error, ConnectionError))  # which tell of another's end
    if errors and not (stopped and isinstance(errors[0], ConnectionError)):
        raise errors[0]
    if stopped:
        raise SystemExit(stopped[0])
    if any(codes):
        raise ChildProcessError(f"the {count} processes of the run ended with {codes}")


def _call(job: Callable[[int], Any], rank: int, raised: Any) -> None:
    """What a process of a run does: its part, and tells its error, which only the parent says."""
    leave_group(lambda number, frame: sys.exit(128 + number))
    threading.Thread(target=_follow, args=[os.getppid()], daemon=True).start()
    try:
        job(rank)
    except Exception as error:
        told = isinstance(error, OSError) or any(kind.__module__ == "depthlab.errors" for kind in type(error).__mro__)
        text = "".join(traceback.format_exception(error))
        raised.put(error if told else RuntimeError(f"{one_line(error)}\n{text}"))
        sys.exit(1)


def one_line(error: object) -> str:
    """The beginning of an error's text, or its kind where it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__
