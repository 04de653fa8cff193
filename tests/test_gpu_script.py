"""scripts/gpu.sh and its parts with tiny numbers on the CPU; what only a GPU can do was not run."""

import json
import os
import subprocess
import sys
import tarfile

import pytest
import torch

import gpu
from conftest import ROOT


def test_the_passes_of_each_precision_are_right_on_a_cpu():
    rows = list(gpu.check_passes(tiny=True))
    assert all(row["right"] for row in rows), rows
    assert {row["precision"] for row in rows} == {"fp32", "bf16"} | ({"tf32"} if torch.cuda.is_available() else set())
    exact = [row["error"] for row in rows if row["precision"] == "fp32"]
    assert 0 < max(exact) < 1e-4


def test_a_wrong_pass_is_found(monkeypatch):
    passes = gpu.passes

    def wrong(plan, where):
        found = passes(plan, where)
        if plan.cfg.precision.name == "bf16":
            found["gradient"] = -found["gradient"]
        return found

    monkeypatch.setattr(gpu, "passes", wrong)
    rows = list(gpu.check_passes(tiny=True))
    assert {row["check"].split(",")[0] for row in rows if not row["right"]} == {"bf16: gradient"}
    assert gpu.right(rows) == ["plain loop"]


def test_resumed_is_what_goes_on_and_a_broken_variant_is_told(monkeypatch):
    monkeypatch.setattr(gpu, "VARIANTS", {"plain loop": "precision=fp32", "graph": "graph=true recompute=true"})
    resumed, graph = gpu.check_courses(tiny=True)
    assert (resumed["error"], resumed["right"]) == (0, True)
    assert resumed["expected"] > 0
    assert not graph["right"]
    assert "leave out recompute" in graph["reason"]


def test_only_what_was_checked_is_right():
    passed = [{"precision": "fp32", "right": True}, {"precision": "bf16", "right": True}]
    course = [{"variant": "graph", "right": True}, {"variant": "graph bf16", "right": False}]
    assert gpu.right(passed + course) == ["plain loop", "graph"]
    assert gpu.right([]) == []


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_the_whole_script_ends_with_a_table_and_archives(tmp_path):
    environment = os.environ | {"OUT": str(tmp_path), "TINY": "1", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    environment |= {"SECONDS_CHECK": "200", "SECONDS_SPEED": "100"}
    for _ in range(2):
        done = subprocess.run([ROOT / "scripts" / "gpu.sh"], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "2 runs: 2 done, 0 to run" in done.stdout
    assert "WRONG" not in done.stdout
    assert "2 runs at once (" in done.stdout
    assert "not whole" not in (tmp_path / "gpu.log").read_text()
    assert done.stdout.rstrip().endswith("to take away: check.json gpu.log runs.tar.gz speed.json")
    with tarfile.open(tmp_path / "runs.tar.gz") as archive:
        names = archive.getnames()
    assert sum(name.endswith("summary.json") for name in names) == 2
    assert not any("checkpoint" in name for name in names)
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["usual loop", "plain loop", "graph", "graph bf16"]


def test_what_is_missing_is_said(tmp_path):
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    python.chmod(0o755)
    environment = os.environ | {"OUT": str(tmp_path), "PYTHON": str(python)}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run([ROOT / "scripts" / "gpu.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: not installed for " in done.stdout
    assert "hydra-core" in done.stdout
