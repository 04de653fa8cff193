"""What the console shows, and how long a run will take."""

import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from depthlab.run import console
from depthlab.run.console import Progress, log_to_console, logging_to, overall


class Clock(SimpleNamespace):
    """A clock that stands still."""

    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


def estimates(clock, progress, each, count):
    """What step() says after each of the iterations, the first of which takes ten times as long."""
    told = []
    for number in range(count):
        clock.now += each * (1 if number else 10)
        told.append(progress.step())
    return told


@pytest.mark.parametrize("each", [0.001, 0.05, 0.5, 10.0])
@pytest.mark.parametrize(("steps", "done", "evaluations"), [(1000, 0, 0.0), (1000, 600, 0.0), (64_000, 0, 9000.0)])
def test_the_time_to_go_is_told_once_and_right(clock, each, steps, done, evaluations):
    with Progress(True, steps, done, 128, evaluations, dict) as progress:
        told = estimates(clock, progress, each, 100)
    (position,) = [number for number, seconds in enumerate(told) if seconds is not None]
    truth = each * (steps - done - (position + 1) + evaluations)
    assert told[position] == pytest.approx(truth, rel=0.01)
    assert position <= 20
    assert position * each >= 2 or position == 20


def test_a_run_of_a_few_iterations_says_nothing(clock):
    with Progress(True, 5, 0, 128, 1.0, dict) as progress:
        assert estimates(clock, progress, 0.1, 5) == [None] * 5


def test_the_bar_counts_images_and_shows_the_error(clock, monkeypatch, capsys):
    made = {}

    def terminal(*args, disable, **kwargs):
        made["bar"] = tqdm(*args, **kwargs)
        return made["bar"]

    tqdm = console.tqdm
    monkeypatch.setattr(console, "tqdm", terminal)
    with Progress(True, 10, 4, 128, 0.0, lambda: {"train_error": 12.34}) as progress:
        assert (made["bar"].n, made["bar"].total) == (4 * 128, 1280)
        clock.now += 1
        progress.step()
        assert made["bar"].n == 5 * 128
        assert made["bar"].postfix == "train error 12.3 %"
    assert made["bar"].disable  # closed


def test_the_bar_of_one_of_many_is_not_shown(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(False, 10, 0, 128, 0.0, dict) as progress:
        assert progress.bar.disable


def test_a_whole_sweep_is_one_line(monkeypatch, capsys):
    """Of three runs the first was half done before; the second is dear."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shares = [0.5, 0, 0]
    with overall([1, 8, 1], lambda: shares, timed=True):
        shares[:] = [1, 0.5, 0]
    shown = capsys.readouterr().err.split("\r")
    assert any(line.startswith("0 of 3 runs   5%|") for line in shown)
    assert any(line.startswith("1 of 3 runs  50%|") for line in shown)
    assert "to go" in "".join(shown)
    with overall([1, 8, 1], lambda: shares, timed=False):
        pass
    assert "to go" not in capsys.readouterr().err


def test_without_a_terminal_a_sweep_draws_nothing(capsys):
    with overall([1], lambda: [0], timed=True):
        pass
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def logger():
    """depthlab's log as it is before anything has been said."""
    log = logging.getLogger("depthlab")
    log.handlers[:] = []
    return log


def test_the_file_holds_more_than_the_console_and_ends_with_the_run(logger, tmp_path, capsys):
    log_to_console()
    log_to_console()
    path = tmp_path / "train.log"
    for text in ("first", "second"):
        with logging_to(path):
            logger.info(text)
            logger.debug("details")
    logger.info("outside")
    assert capsys.readouterr() == ("first\nsecond\noutside\n", "")
    lines = [line.split(" ", 2)[2] for line in Path(path).read_text().splitlines()]
    assert lines == ["first", "details", "second", "details"]
    assert [type(h).__name__ for h in logger.handlers if type(h).__module__ != "_pytest.logging"] == ["Console"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's disk that is always full")
def test_a_log_that_the_disk_does_not_take_is_left_out(logger, capsys):
    with logging_to(Path("/dev/full")):
        logger.debug("an evaluation")
    assert capsys.readouterr().err == ""
