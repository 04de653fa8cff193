"""TensorBoard's file read by TensorBoard."""

import errno
import math
import threading

import pytest

from depthlab.run.tensorboard import TensorBoard

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


def test_a_full_disk_is_told_where_it_is_saved_and_not_in_a_traceback(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fills_up():
        with TensorBoard(tmp_path, 0, {}) as board:
            board.flush()
            monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
            board.add(1, METRICS)
            board.flush()

    heard = []
    monkeypatch.setattr(threading, "excepthook", heard.append)
    with pytest.raises(OSError, match="No space"):
        fills_up()
    assert heard == []
    assert threading.excepthook == heard.append
