"""Ctrl-C and SIGTERM, remembered until the run can save."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from depthlab.machine.processes import STOPPING


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
            os.write(2, STOPPING)

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
