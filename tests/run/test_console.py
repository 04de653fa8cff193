"""TensorBoard's file read by TensorBoard, signals, the console, and how long it will take."""

import logging
import math
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from depthlab.run import console
from depthlab.run.console import Interruption, Progress, TensorBoard, log_to_console, logging_to

METRICS = {"train_error": 60.0, "train_loss": 1.5, "lr": 0.1, "test_error": 70.0, "test_loss": 1.75}
METRICS |= {"clean_train_error": 59.0, "clean_train_loss": 1.25, "diverged_at": 3}


def read(path):
    """What TensorBoard sees in a run directory: tag -> [(step, value)], and the hyper-parameters."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(path))
    events.Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    parts = [HParamsPluginData.FromString(c) for c in events.PluginTagToContent("hparams").values()]
    return scalars, parts


def test_the_tags_are_those_of_the_design_in_the_runs_own_directory(tmp_path):
    with TensorBoard(tmp_path, 0, {"depth": 20, "skip": "none"}) as board:
        board.add(10, METRICS)
        board.add(20, METRICS | {"train_loss": math.nan, "lr": 0.01})
    scalars, _ = read(tmp_path)
    wanted = {"error/train": 60, "error/test": 70, "error/clean_train": 59, "loss/train": 1.5, "loss/test": 1.75}
    assert scalars.keys() == {*wanted, "loss/clean_train", "learning_rate"}
    for tag, value in wanted.items():
        assert scalars[tag][0] == (10, value)
        assert scalars[tag][1] == (20, value) or (tag == "loss/train" and math.isnan(scalars[tag][1][1]))
    assert scalars["learning_rate"] == [(10, pytest.approx(0.1)), (20, pytest.approx(0.01))]
    assert len([*tmp_path.glob("events.out.tfevents.*")]) == 1
    assert [path for path in tmp_path.rglob("*") if path.is_dir()] == []


def test_the_hyperparameters_stand_beside_the_curves(tmp_path):
    with TensorBoard(tmp_path, 0, {"depth": 20, "skip": "none", "rate": 0.5}):
        pass
    _, parts = read(tmp_path)
    started = next(part.session_start_info.hparams for part in parts if part.HasField("session_start_info"))
    values = {key: started[key].number_value or started[key].string_value for key in started}
    assert values == {"depth": 20, "skip": "none", "rate": 0.5}
    experiment = next(part.experiment for part in parts if part.HasField("experiment"))
    assert {info.name.tag for info in experiment.metric_infos} == {"error/train", "error/test"}


def test_what_a_stopped_run_wrote_after_its_checkpoint_is_not_shown_twice(tmp_path):
    """Evaluated at 10, saved, evaluated at 20 and 30, killed; goes on from 10."""
    with TensorBoard(tmp_path, 0, {}) as board:
        for step in (10, 20, 30):
            board.add(step, {"test_error": float(step)})
    with TensorBoard(tmp_path, 11, {}) as board:
        for step in (20, 30, 40):
            board.add(step, {"test_error": float(step)})
    assert read(tmp_path)[0]["error/test"] == [(step, float(step)) for step in (10, 20, 30, 40)]


SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_remembered_and_the_second_ends(number):
    before = [signal.getsignal(n) for n in SIGNALS]
    with Interruption().watching() as interruption:
        assert interruption.signal is None
        signal.raise_signal(number)
        assert interruption.signal == number
        with pytest.raises(SystemExit) as stop:
            signal.raise_signal(signal.SIGTERM)
        assert stop.value.code == 143
    assert [signal.getsignal(n) for n in SIGNALS] == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_outside_signals_do_what_they_did_before(monkeypatch, error):
    def mine(number, frame):
        pass

    before = [signal.signal(n, mine) for n in SIGNALS]
    try:
        with pytest.raises(error), Interruption().watching():
            raise error if signal.getsignal(signal.SIGTERM) is not mine else AssertionError
        assert [signal.getsignal(n) for n in SIGNALS] == [mine, mine]
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


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
    with Progress(None, steps, done, 128, evaluations, dict) as progress:
        told = estimates(clock, progress, each, 100)
    (position,) = [number for number, seconds in enumerate(told) if seconds is not None]
    truth = each * (steps - done - (position + 1) + evaluations)
    assert told[position] == pytest.approx(truth, rel=0.01)
    assert position <= 20
    assert position * each >= 2 or position == 20


def test_a_run_of_a_few_iterations_says_nothing(clock):
    with Progress(None, 5, 0, 128, 1.0, dict) as progress:
        assert estimates(clock, progress, 0.1, 5) == [None] * 5


def test_the_bar_counts_images_and_shows_the_error(clock, monkeypatch, capsys):
    made = {}

    def terminal(*args, disable, **kwargs):
        made["bar"] = tqdm(*args, **kwargs)
        return made["bar"]

    tqdm = console.tqdm
    monkeypatch.setattr(console, "tqdm", terminal)
    with Progress("a run", 10, 4, 128, 0.0, lambda: {"train_error": 12.34}) as progress:
        assert (made["bar"].n, made["bar"].total) == (4 * 128, 1280)
        clock.now += 1
        progress.step()
        assert made["bar"].n == 5 * 128
        assert made["bar"].postfix == "train error 12.3 %"
    assert made["bar"].disable  # closed


@pytest.fixture
def logger():
    """depthlab's log as it is before anything has been said."""
    log = logging.getLogger("depthlab")
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    log.handlers[:] = []
    yield log
    log.handlers[:], log.level, log.propagate = handlers, level, propagate


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
