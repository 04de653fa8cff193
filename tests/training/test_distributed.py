"""A run on two processes is the run on one: gradients, curves, probes, what it writes, how it ends and goes on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from conftest import ROOT
from depthlab.command.compose import compose
from depthlab.command.words import over
from depthlab.machine.processes import together
from depthlab.run.start import run
from depthlab.training.distributed import Ranks

RUN = (
    *("data=digits", "data.augment=true", "data.subset=200", "data.validation=21"),
    *(
        "evaluate_train=true",
        "depth=8",
        "width=4",
        "threads=1",
        "device=cpu",
        "precision=fp64",
        "checkpoint_every=1e9",
    ),
    *("recipe.batch=32", "recipe.iterations=16", "recipe.rate=0.05"),
    *("recipe.warmup.share=0.5", "recipe.warmup.until_error=85", "recipe.warmup.from_depth=0"),
)
DATA = RUN[:4]
CASES = {
    "one iteration": ("norm=group", "epochs=0.1", "recipe.iterations=null"),
    "group": ("norm=group",),
    "none": ("norm=none", "recipe.rate=0.01", "skip=none", "data.validation=1"),
    "synchronised": ("norm.sync=true", "probe=[gradients,activations]", "checkpoint_every=0"),
    "each its own": ("norm=batch",),
    "dropout": ("skip=dropout", "norm=group"),
    "diverged": (
        "norm=none",
        "precision=fp32",
        "recipe.rate=1e30",
        "recipe/schedule=constant",
        "recipe.warmup.share=0",
    ),
    "not trained": ("norm=group", "epochs=0"),
}
CASES = {name: over(RUN, *options) for name, options in CASES.items()}


def run_cases(cases, rank):
    """What each of the two processes does: all runs, one after another."""
    for cfg, choices, ports in cases:
        with open(f"started-{rank}", "a") as file:
            file.write(f"{cfg.output_dir}\n")
        run(cfg, choices, brief=True, ranks=Ranks(rank, 2, rank, 2, None, ports))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """All cases on one process, in one/CASE, and on two, in two/CASE."""
    folder = tmp_path_factory.mktemp("runs")
    before = Path.cwd()
    os.chdir(folder)
    try:
        threads = torch.get_num_threads()
        stores = [dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in CASES]
        made = {name: compose(options) for name, options in CASES.items()}
        cases = []
        for store, (name, (cfg, choices)) in zip(stores, made.items(), strict=True):
            two = cfg.copy()
            cfg.output_dir, two.output_dir = f"one/{name}", f"two/{name}"
            run(cfg, choices, brief=True)
            cases.append((two, choices, store.port))
        cfg, choices = compose([*RUN, "norm=ghost", "norm.size=16", "output_dir=one/ghost"])
        run(cfg, choices, brief=True)
        together(partial(run_cases, cases), 2)
        torch.set_num_threads(threads)
    finally:
        os.chdir(before)
    return folder


def records(folder, name="metrics.jsonl"):
    (path,) = folder.glob(f"digits/*/{name}")
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]


def checkpoint(folder):
    (path,) = folder.glob("digits/*/checkpoint.pt")
    return torch.load(path, weights_only=True)


def close(a, b, tolerance=1e-9, without="^$"):
    """Whether two records or states are equal to rounding, counts and positions exactly."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(
            close(a[k], b[k], tolerance, without) for k in a if not re.search(without, str(k))
        )
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(close(x, y, tolerance, without) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor):
        return torch.allclose(a.double(), b.double(), tolerance, tolerance)
    if isinstance(a, float) and isinstance(b, float):
        return a == pytest.approx(b, rel=max(tolerance, 1e-6), abs=max(tolerance, 1e-6))
    return a == b


def test_the_gradients_of_two_processes_are_those_of_one(outputs):
    """After one iteration the momentum is the gradient, and the decay of weights that are still the same."""
    one, two = checkpoint(outputs / "one/one iteration"), checkpoint(outputs / "two/one iteration")
    assert one["step"] == 1
    assert close(one["optimizer"], two["optimizer"], 1e-13)
    assert close(one["net"], two["net"], 1e-13)


@pytest.mark.parametrize("name", ["group", "none", "synchronised", "not trained"])
def test_the_curves_and_weights_of_two_processes_are_those_of_one(outputs, name):
    one, two = outputs / "one" / name, outputs / "two" / name
    assert close(records(one), records(two))
    assert close(*({k: checkpoint(f)[k] for k in ("net", "optimizer", "step", "warm")} for f in (one, two)))


def test_the_warm_up_ends_for_all_at_the_same_iteration(outputs):
    assert not checkpoint(outputs / "two/group")["warm"]


def test_probes_of_a_synchronised_network_see_all_of_their_images(outputs):
    for name in ("probe-gradients.jsonl", "probe-activations.jsonl"):
        one, two = (records(outputs / folder / "synchronised", name) for folder in ("one", "two"))
        assert len(one) > 1
        assert close(one, two, 1e-5)


def test_batch_norm_of_each_process_is_ghost_batch_norm(outputs):
    """Hoffer et al. 2017's virtual batches, here of 16 images; only the running statistics differ."""
    ghost, two = outputs / "one/ghost", outputs / "two/each its own"
    assert close(checkpoint(ghost)["net"], checkpoint(two)["net"], without="running|batches")
    for a, b in zip(records(ghost), records(two), strict=True):
        assert all(close(a[key], b[key]) for key in ("step", "train_error", "train_loss", "lr"))
    assert not close(records(outputs / "one/each its own")[-1], records(two)[-1])


def test_each_process_draws_its_own_dropout(outputs):
    one, two = (records(outputs / folder / "dropout") for folder in ("one", "two"))
    assert one[-1]["train_loss"] != pytest.approx(two[-1]["train_loss"], rel=1e-6)


def test_a_run_diverges_for_all(outputs):
    one, two = (records(outputs / folder / "diverged") for folder in ("one", "two"))
    assert one[-1]["diverged_at"] == two[-1]["diverged_at"]
    assert one[-1]["step"] == two[-1]["step"]


def test_only_the_first_writes(outputs):
    assert (outputs / "started-1").read_text() == (outputs / "started-0").read_text()
    for home in outputs.glob("two/*/digits/*"):
        assert len([*home.glob("events*")]) == 1
        assert (home / "train.log").read_text().count(": finished") <= 1
        assert json.loads((home / "summary.json").read_text())["devices"] == 2


# in processes as a person starts them

LONG = (*DATA, "depth=8", "width=4", "threads=1", "precision=fp64", "norm=group", "recipe.batch=32")
LONG += ("recipe.iterations=200", "recipe.warmup.share=0", "checkpoint_every=0", "device=cpu")
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2")


@pytest.fixture
def start(tmp_path):
    """`start("train.py", ...)` is a process in a group of its own, that hears Ctrl-C also in a shell's background."""
    with ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))

        def started(*command):
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield started


def after(step, process, folder):
    """Waits until more than so many iterations are saved; the processes of the run, the first one first."""
    end = time.monotonic() + 120
    while not [*folder.glob("outputs/*/*/checkpoint.pt")] or checkpoint(folder / "outputs")["step"] <= step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return [int(pid) for pid, parent, name in rows if parent == str(process.pid) and "resource_tracker" not in name]


def test_a_killed_process_ends_the_run_and_one_process_goes_on(command, start, tmp_path):
    process = start(ROOT / "train.py", *LONG, "devices=2")
    _, second = after(0, process, tmp_path)
    os.kill(second, signal.SIGKILL)
    killed = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - killed < 20
    assert process.returncode == 1
    assert err == "error: process 2 of 2 was killed by signal 9; the same command continues\n"
    assert "finished" not in out

    step = checkpoint(tmp_path / "outputs")["step"]
    assert 0 < step < 200
    outcome = command(*LONG)
    assert outcome.code == 0
    assert f"goes on  from iteration {step} of 200" in outcome.out
    assert command(*LONG, "output_dir=undisturbed").code == 0
    assert close(records(tmp_path / "outputs"), records(tmp_path / "undisturbed"), 1e-5)


def test_what_stops_one_stops_and_saves_all_and_any_number_goes_on(command, start, tmp_path):
    process = start(*TORCHRUN, ROOT / "train.py", *LONG)
    _, second = after(0, process, tmp_path)
    os.kill(second, signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    (step,) = map(
        int, re.findall(r"saved at iteration (\d+) of 200; to continue: torchrun --nproc-per-node 2 /", out)
    )
    assert step == checkpoint(tmp_path / "outputs")["step"] < 200
    window = checkpoint(tmp_path / "outputs")["window"]
    assert window is None or window[2] % 32 == 0  # whole batches

    process = start(ROOT / "train.py", *LONG, "devices=2")
    after(step, process, tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "\nstopping after this iteration; once more stops at once\n")
    assert f"goes on  from iteration {step} of 200" in out
    assert out.count("to continue: python ") == 1

    assert command(*LONG).code == 0
    assert command(*LONG, "output_dir=undisturbed").code == 0
    assert close(records(tmp_path / "outputs"), records(tmp_path / "undisturbed"), 1e-5)


def test_a_sweep_of_runs_of_two_processes_in_workers(start, tmp_path):
    options = over(LONG, "epochs=1", "recipe.iterations=null", "devices=2", "seed=0,1", "hydra.launcher.n_jobs=2")
    process = start(ROOT / "train.py", "-m", *options)
    out, err = process.communicate(timeout=180)
    assert (process.returncode, err) == (0, "")
    assert "2 finished" in out
    assert len([*tmp_path.glob("outputs/digits/*/summary.json")]) == 2


def test_a_sweep_under_torchrun_is_a_mistake(command, monkeypatch):
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for key, value in place.items():
        monkeypatch.setenv(key, value)
    outcome = command("-m", *LONG, "seed=0,1")
    assert outcome.code == 2
    assert outcome.err == "error: torchrun: a sweep starts its processes itself: python train.py, with devices=N\n"
    outcome = command(*LONG, "devices=3")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1


def test_a_batch_that_cannot_be_shared_is_a_mistake(command):
    outcome = command(*LONG, "devices=3")
    assert outcome.code == 2
    assert outcome.err == "error: devices=3: cannot share recipe.batch=32 equally (nearest: 2)\n"
