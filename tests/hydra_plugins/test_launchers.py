"""A small sweep under each launcher that is installed; what ends one, in processes as a person starts them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from importlib.util import find_spec

import pytest
from PIL import Image

from conftest import ROOT

PLUGINS = {"joblib": "joblib", "submitit_local": "submitit", "ray": "ray"}
GRID = ("-m", "depth=8", "skip=none,identity", "seed=0,1", "data=digits", "width=4")
LONG = ("recipe.iterations=100000", "threads=1", "hydra.launcher.n_jobs=2")
installed = {
    name: pytest.param(name, marks=pytest.mark.skipif(find_spec(plugin) is None, reason="not installed"))
    for name, plugin in PLUGINS.items()
}


@pytest.fixture
def started():
    """`started(folder, *options)` is a sweep in a process group of its own.

    It hears Ctrl-C even if the tests run in a shell's background, where that is ignored.
    """
    with ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))

        def start(folder, *options):
            process = subprocess.Popen(
                [sys.executable, ROOT / "train.py", *options],
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def sweep(started):
    """`sweep(folder, *options)` runs one to its end: exit code, output, errors."""

    def run(folder, *options):
        process = started(folder, *options)
        out, err = process.communicate()
        return process.returncode, out, err

    return run


def trained(folder):
    """Waits until two runs have learned something."""
    end = time.monotonic() + 120
    while len([f for f in folder.glob("outputs/*/*/metrics.jsonl") if f.stat().st_size]) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)


def curves(folder):
    """Each run's records by its name, without what depends on the clock."""
    runs = sorted(folder.glob("outputs/digits/*/metrics.jsonl"))
    return {run.parent.name: [json.loads(x) | {"seconds": 0} for x in run.read_text().splitlines()] for run in runs}


@pytest.mark.parametrize("launcher", installed.values())
def test_a_sweep_goes_on_and_one_failed_run_does_not_stop_the_others(
    tmp_path, tmp_path_factory, sweep, command, launcher
):
    """With a norm of one's own, whose file each worker reads for itself."""
    mine = tmp_path_factory.mktemp("mine")
    (mine / "norm.py").write_text(
        "from torch.nn import BatchNorm2d\n\n\ndef mine(channels):\n    return BatchNorm2d(channels)\n"
    )
    grid = (*GRID, "recipe.iterations=2", f"options={mine}", "norm=mine")
    options = (*grid, f"hydra/launcher={launcher}")
    code, out, err = sweep(tmp_path, *options)
    assert (code, "Warning" in err, "Traceback" in err) == (0, False, False)
    assert out.startswith("4 runs: 0 done, 4 to run\n")
    assert "  skip=identity  2 finished  train error " in out
    runs = sorted(tmp_path.glob("outputs/digits/*/summary.json"))
    assert len(runs) == 4
    assert all("cpu (1 thread)" in (run.parent / "train.log").read_text() for run in runs)
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}
    command(*grid, "hydra/launcher=basic", "output_dir=alone/outputs")
    assert curves(tmp_path) == curves(tmp_path / "alone")

    (runs[0].parent / "checkpoint.pt").write_bytes(b"damaged")
    for run in runs[:2]:
        run.unlink()
    code, out, err = sweep(tmp_path, *options)
    assert (code, "Traceback" in err) == (1, False)
    assert out.startswith("4 runs: 2 done, 2 to run\n")
    assert f"{runs[0].parent.name}: failed: " in out
    assert "damaged" in (runs[0].parent / "train.log").read_text()
    assert [run.exists() for run in runs] == [False, True, True, True]


@pytest.mark.parametrize(("send", "number"), [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)])
def test_what_stops_a_sweep_stops_and_saves_its_runs(tmp_path, started, sweep, send, number):
    options = (*GRID, "recipe.iterations=500", "threads=1", "hydra.launcher.n_jobs=2")
    process = started(tmp_path, *options)
    trained(tmp_path)
    send(process.pid, number)
    out, err = process.communicate(timeout=120)
    runs = sorted(tmp_path.glob("outputs/digits/*"))
    assert (process.returncode, "Traceback" in out + err) == (128 + number, False)
    assert out.splitlines()[-1].startswith("stopped; to continue: python ")
    assert (out + err).count("stopping after this iteration") == 1
    assert len(re.findall(r"8-[\w-]+: stopped and saved at iteration", out)) == 2
    assert len(runs) == 2
    assert all((run / "checkpoint.pt").exists() for run in runs)
    if number == signal.SIGINT:
        code, out, _ = sweep(tmp_path, *options)
        assert (code, out.count(": finished, ")) == (0, 4)
        assert all("goes on  from iteration" in (run / "train.log").read_text() for run in runs)


def test_a_killed_worker_ends_the_sweep_with_one_line(tmp_path, started):
    process = started(tmp_path, *GRID, *LONG)
    trained(tmp_path)
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    children = [line.split(None, 2) for line in listed.splitlines()]
    workers = [int(pid) for pid, parent, name in children if parent == str(process.pid) and "LokyProcess" in name]
    os.kill(workers[0], signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (1, "")
    assert "hydra/launcher=local gave up: " in out
    assert "  skip=none      2 unfinished\n" in out


def test_workers_of_a_killed_sweep_save_and_stop(tmp_path, started):
    process = started(tmp_path, *GRID, *LONG)
    trained(tmp_path)
    process.kill()
    process.wait()
    end = time.monotonic() + 120
    while len([*tmp_path.glob("outputs/digits/*/checkpoint.pt")]) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert not [*tmp_path.glob("outputs/digits/*/summary.json")]


def test_data_workers_inside_a_worker(tmp_path, sweep):
    for part in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / part / label / f"{number}.png")
    small = ("data.root=.", "data.size=32", "data.workers=2", "recipe.batch=4", "recipe.iterations=1", "depth=18")
    code, out, err = sweep(
        tmp_path, "-m", "hydra.launcher.n_jobs=2", "data=imagenet", "seed=0,1", "width=4", "threads=1", *small
    )
    assert (code, err) == (0, "")
    assert "  depth=18 skip=identity norm=batch  2 finished" in out
