"""The run directory as it is after anything."""

import json
import math
import os
import re
import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from depthlab.errors import Mistake
from depthlab.run.directory import Run

CONFIG = {
    "depth": 20,
    "recipe": {"rate": 0.1, "decay": 1e-4},
    "data": {"root": "here"},
    "device": "auto",
    "block": None,
}
RECORDS = [{"step": 1, "train_error": 90.0}, {"step": 2, "train_error": math.nan, "train_loss": math.inf}]


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "group" / "resnet20-s0")
    run.start(CONFIG, {})
    return run


def test_a_new_run_holds_its_config_alone(run):
    assert [*run.path.iterdir()] == [run.config]
    assert yaml.safe_load(run.config.read_text()) == CONFIG
    assert (run.records(), run.finished()) == ([], None)


def test_the_same_config_joins_and_what_is_stored_stays(run):
    before = run.config.read_text()
    run.start(CONFIG | {"device": "cuda", "threads": 2, "new": None}, {})
    assert run.config.read_text() == before


@pytest.mark.parametrize(
    "change", [{"depth": 26}, {"recipe": {"rate": 0.2, "decay": 1e-4}}, {"new": 1}, {"block": "basic"}]
)
def test_another_config_is_refused_and_nothing_is_touched(run, change):
    before = run.config.read_text()
    with pytest.raises(Mistake, match=r"config\.yaml: not this run's config; move the directory away"):
        run.start(CONFIG | change, {})
    assert run.config.read_text() == before


@pytest.mark.parametrize("text", ["", "text", "- 1\n"])
def test_a_config_that_is_none_is_refused(run, text):
    run.config.write_text(text)
    with pytest.raises(Mistake, match="not this run's config"):
        run.start(CONFIG, {})


def test_a_path_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "outputs").write_text("a file")
    with pytest.raises(Mistake, match=r"^output_dir: cannot write .*outputs/run: Not a directory$"):
        Run(tmp_path / "outputs" / "run").start(CONFIG, {})


def test_an_owned_run_is_another_processs_mistake(run):
    code = (
        "import sys, pathlib; from depthlab.run.directory import Run; from depthlab.errors import Mistake\n"
        "try:\n  with Run(pathlib.Path(sys.argv[1])).owned(): print('owned')\n"
        "except Mistake as mistake: print(mistake)"
    )

    def other():
        return subprocess.check_output([sys.executable, "-c", code, run.path], text=True)

    with run.owned():
        said = other()
    assert re.fullmatch(rf"{run.path}: in use by process {os.getpid()} on \S+ since .*; wait for its end, .*\n", said)
    assert other() == "owned\n"


def test_owning_a_run_takes_away_what_a_killed_process_left(run):
    left = run.path / ".checkpoint.pt.123"
    left.write_bytes(b"half")
    with run.owned():
        assert not left.exists()


def test_a_run_set_aside_gives_its_place_to_a_new_one(run):
    with run.owned():
        run.set_aside()
    with run.owned():
        run.start(CONFIG, {})
    assert {path.name for path in run.path.iterdir()} == {".lock", "config.yaml"}


def test_a_path_that_cannot_be_owned_is_one_line(tmp_path):
    (tmp_path / "outputs").write_text("a file")
    words = r"^output_dir: cannot write .*outputs/run: Not a directory$"
    with pytest.raises(Mistake, match=words), Run(tmp_path / "outputs" / "run").owned():
        pass


@settings(max_examples=50, deadline=None)
@given(
    values=st.dictionaries(
        st.text("abc", min_size=1),
        st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans() | st.none() | st.text(),
    )
)
def test_any_config_joins_itself(tmp_path_factory, values):
    """YAML gives back each number to the last bit."""
    run = Run(tmp_path_factory.mktemp("runs") / "run")
    run.start(values, {})
    run.start(values, {})
    assert yaml.safe_load(run.config.read_text()) == values


def test_records_come_back_in_order_and_what_is_not_finite_is_null(run):
    for record in RECORDS:
        run.append(record)
    assert run.records() == [RECORDS[0], {"step": 2, "train_error": None, "train_loss": None}]
    assert run.metrics.read_text().endswith('{"step": 2, "train_error": null, "train_loss": null}\n')


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_torn_last_line_is_dropped_wherever_it_is_torn(run, cut):
    for step in (1, 2, 3):
        run.append({"step": step, "test_error": 12.5})
    lines = run.metrics.read_bytes().splitlines(keepends=True)
    assert cut < len(lines[-1])
    run.metrics.write_bytes(b"".join(lines)[:-cut])
    assert [record["step"] for record in run.records()] == [1, 2]


def test_bytes_that_are_no_text_at_the_end_are_dropped(run):
    run.append({"step": 1})
    with run.metrics.open("ab") as file:
        file.write(b'{"step": \xff\xc3')
    assert run.records() == [{"step": 1}]


def test_keep_replaces_the_torn_line_so_that_the_next_record_is_whole(run):
    run.append({"step": 1})
    run.append({"step": 2})
    with run.metrics.open("ab") as file:
        file.write(b'{"st')
    run.keep(run.records()[:1])
    run.append({"step": 3, "test_loss": math.nan})
    assert run.records() == [{"step": 1}, {"step": 3, "test_loss": None}]
    run.keep([])
    assert run.records() == []
    assert {path.name for path in run.path.iterdir()} == {"config.yaml", "metrics.jsonl"}


def test_each_record_is_on_the_disk_when_append_is_done(run, monkeypatch):
    import os

    sizes = []
    monkeypatch.setattr("depthlab.run.directory.os.fsync", lambda number: sizes.append(os.fstat(number).st_size))
    run.append({"step": 1})
    assert sizes == [run.metrics.stat().st_size] == [len('{"step": 1}\n')]


def test_a_summary_makes_a_run_finished_and_holds_no_nan(run):
    run.finish({"status": "diverged", "final": {"train_loss": math.nan, "test_loss": -math.inf, "test_error": 90.0}})
    wanted = {"status": "diverged", "final": {"train_loss": None, "test_loss": None, "test_error": 90.0}}
    assert run.finished() == wanted
    assert {path.name for path in run.path.iterdir()} == {"config.yaml", "summary.json"}


@pytest.mark.parametrize("text", ["", '{"status": "fin'])
def test_a_damaged_summary_is_one_line(run, text):
    run.summary.write_text(text)
    with pytest.raises(Mistake, match=r"summary\.json: damaged; delete it to finish the run from its checkpoint$"):
        run.finished()


def test_runs_set_aside_are_numbered_and_none_is_lost(run):
    for count in range(1, 4):
        run.finish({"count": count})
        run.set_aside()
        assert not run.path.exists()
        run.start(CONFIG, {})
    aside = run.path.parent / ".replaced"
    counts = {path.name: json.loads((path / "summary.json").read_text())["count"] for path in aside.iterdir()}
    assert counts == {f"resnet20-s0-{count}": count for count in range(1, 4)}
    assert run.finished() is None
