"""scripts/gpu.sh and its parts with tiny numbers on the CPU; what only a GPU can do was not run."""

import json
import math
import os
import shutil
import subprocess
import sys
import tarfile

import pytest

import gpu
from conftest import ROOT


def test_the_passes_of_each_precision_are_right_on_a_cpu():
    rows = list(gpu.check_passes(tiny=True))
    assert all(row["right"] for row in rows), rows
    assert {row["precision"] for row in rows} == {"fp32", "tf32", "bf16"}
    exact = [row["error"] for row in rows if row["precision"] == "fp32"]
    assert 0 < max(exact) < 1e-4
    logits = [row["error"] for row in rows if "logits, depth=20 skip=identity" in row["check"]]
    assert 0 < 100 * logits[0] < logits[1] < logits[2] < 0.1


def test_a_wrong_pass_is_found(monkeypatch):
    passes = gpu.passes

    def wrong(plan):
        found = passes(plan)
        if plan.cfg.precision.name == "bf16":
            found["gradient"] = -found["gradient"]
        return found

    monkeypatch.setattr(gpu, "passes", wrong)
    rows = list(gpu.check_passes(tiny=True))
    assert {row["check"].split(",")[0] for row in rows if not row["right"]} == {"bf16: gradient"}
    assert gpu.right(rows) == ["plain loop", "tf32"]


def test_resumed_is_what_goes_on_and_a_broken_variant_is_told(monkeypatch):
    monkeypatch.setattr(gpu, "VARIANTS", {"plain loop": "precision=fp32", "graph": "graph=true recompute=true"})
    resumed, graph = gpu.check_courses(tiny=True)
    assert (resumed["error"], resumed["right"]) == (0, True)
    assert resumed["compared"] > gpu.RESUMED
    assert not graph["right"]
    assert "leave out recompute" in graph["reason"]


def test_a_course_is_held_to_what_rounding_makes_of_it():
    usual, nudged = [2.0, 1.0, 0.5, 0.4], [2.0, 1.0 + 1e-5, 0.5 + 1e-4, 0.9]
    assert gpu.apart([2.0, 1.0 + 5e-5, 0.5, 0.1], usual, nudged)["right"]  # the last is beyond what can be told
    wrong = gpu.apart([2.0 + 1e-4, 1.0, 0.5, 0.4], usual, nudged)
    assert (wrong["right"], wrong["error"], wrong["expected"]) == (False, pytest.approx(5e-5), 1e-6)
    assert wrong["compared"] == 3
    assert not gpu.apart(usual, usual, [9.0, *nudged[1:]])["right"]  # nothing could be compared
    lost = gpu.apart([2.0, math.nan, math.nan, math.nan], usual, nudged)
    assert (lost["right"], lost["error"]) == (False, math.inf)


def test_several_runs_at_once_where_that_gains():
    rows = [{"depth": 20, "variant": "graph", "images_s": 2.0, "ratio": 2.0}]
    for gain, told in ((1.29, "graph=true"), (1.3, "graph=true hydra.launcher.n_jobs=2")):
        together = {"gain": gain, "processes": 2, "variant": "graph"}
        assert gpu.table([], {"rows": rows, "together": together}).endswith(f"\noptions: {told}")


def test_only_what_was_checked_is_right():
    passed = [{"precision": "fp32", "right": True}, {"precision": "bf16", "right": True}]
    course = [{"variant": "graph", "right": True}, {"variant": "graph bf16", "right": False}]
    assert gpu.right(passed + course) == ["plain loop", "graph"]
    assert gpu.right([]) == []


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_the_whole_script_ends_with_a_table_and_archives(tmp_path):
    work, out = tmp_path / "work", tmp_path / "out"
    environment = os.environ | {
        "OUT": str(out),
        "WORK": str(work),
        "TINY": "1",
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
    }
    environment |= {"SECONDS_CHECK": "200", "SECONDS_SPEED": "100"}
    for _ in range(2):
        shutil.rmtree(out, ignore_errors=True)  # what was taken away is not needed to go on
        done = subprocess.run([ROOT / "scripts" / "gpu.sh"], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "2 runs: 2 done, 0 to run" in done.stdout
    assert "WRONG" not in done.stdout
    assert "2 runs at once (" in done.stdout
    assert "not whole" not in (out / "gpu.log").read_text()
    assert done.stdout.rstrip().endswith("to take away: check.json runs.tar.gz speed.json gpu.log")
    with tarfile.open(out / "runs.tar.gz") as archive:
        names = archive.getnames()
    assert sum(name.endswith("summary.json") for name in names) == 2
    assert not any("checkpoint" in name for name in names)
    rows = json.loads((out / "speed.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == [
        "usual loop",
        "plain loop",
        "tf32",
        "graph",
        "graph tf32",
        "graph bf16",
    ]


def test_what_is_missing_is_said(tmp_path):
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    python.chmod(0o755)
    environment = os.environ | {"WORK": str(tmp_path), "OUT": str(tmp_path), "PYTHON": str(python)}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run([ROOT / "scripts" / "gpu.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: not installed for " in done.stdout
    assert "hydra-core" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
@pytest.mark.parametrize("pieces", [False, True])
def test_a_data_set_that_is_not_whole_is_said_before_anything_else(tmp_path, pieces):
    data = tmp_path / "given"
    data.mkdir()
    if pieces:
        (data / "cifar10.npz.partaa").write_bytes(b"not ")
        (data / "cifar10.npz.partab").write_bytes(b"whole")
    environment = os.environ | {"WORK": str(tmp_path / "work"), "OUT": str(tmp_path), "TINY": "1", "DATA": str(data)}
    environment |= {"PYTHON": sys.executable}
    done = subprocess.run([ROOT / "scripts" / "gpu.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: data.source=" in done.stdout
    assert "== what is right" not in done.stdout
    if pieces:
        assert (tmp_path / "work" / "data" / "cifar10.npz").read_bytes() == b"not whole"
