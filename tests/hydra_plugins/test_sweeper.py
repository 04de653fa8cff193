"""What a sweep tells, and how it ends, in one process."""

import json
import re
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import joblib
import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode

from depthlab.command.compose import without_hydra
from depthlab.command.words import over
from depthlab.config import CONFIGS
from depthlab.run.plan import Plan, plan
from hydra_plugins.depthlab_sweeper import composed, shared

GRID = ("-m", "skip=none,identity", "seed=0,1", "data=digits", "depth=8", "width=4", "recipe.iterations=2")


def summaries():
    return {path.parent.name: json.loads(path.read_text()) for path in Path("outputs/digits").glob("*/summary.json")}


def test_seeds_are_one_result(command):
    lines = command(*GRID).out.splitlines()
    plain = [summary["final"]["test_error"] for name, summary in summaries().items() if name.startswith("plain")]
    (line,) = (line for line in lines if line.startswith("  skip=none "))
    assert "  2 finished  train error " in line
    assert f"  test error {sum(plain) / 2:.2f} ± {abs(plain[0] - plain[1]) / 2**0.5:.2f} %" in line
    again = command(*GRID).out.splitlines()
    assert line in again


def test_a_terminal_shows_a_sweep_as_one_line(command, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    command(*GRID)
    for again in (["rerun=true"], ["epochs=0.1", "recipe.iterations=null"]):
        err = command(*over(GRID, *again)).err
        assert "0%|" in err
        assert "4 of 4 runs 100%|" in err
        assert "images/s" not in err


@pytest.mark.parametrize(
    ("word", "line"),
    [("seed=range(3,0)", "no run: one of the sweeps has no value"), ("seed=range(0,9,0)", "seed=range")],
)
def test_a_sweep_over_nothing_is_a_mistake(command, word, line):
    outcome = command("-m", "data=digits", word)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert outcome.err.startswith(f"error: {line}")


def test_a_failed_run_is_counted_and_not_averaged(command):
    command(*GRID)
    name = next(name for name in summaries() if name.startswith("plain8-batch-s0"))
    run = Path("outputs/digits", name)
    (run / "summary.json").unlink()
    (run / "checkpoint.pt").write_bytes(b"damaged")
    outcome = command(*GRID)
    assert outcome.code == 1
    assert outcome.out.startswith("4 runs: 3 done, 1 to run\n")
    assert f"\n{name}: failed: " in outcome.out
    assert "damaged" in (run / "train.log").read_text()
    (line,) = (line for line in outcome.out.splitlines() if line.startswith("  skip=none "))
    assert "  1 failed, 1 finished  train error " in line
    assert "±" not in line


def test_a_diverged_run_is_no_failed_one(command):
    outcome = command(*over(GRID, "norm=none", "recipe.rate=1e30", "recipe.iterations=20"))
    assert outcome.code == 0
    assert "  skip=none      2 diverged" in outcome.out


@pytest.mark.filterwarnings(r"ignore:\s*'hydra/launcher/")
def test_a_launcher_that_is_not_installed_is_named_with_what_installs_it(command, tmp_path):
    outcome = command(
        *GRID, "hydra/launcher=submitit_slurm", "hydra.launcher._target_=hydra_plugins.gone.slurm.Slurm"
    )
    assert outcome.code == 2
    assert outcome.err == "error: hydra/launcher=submitit_slurm: not installed; pip install -e '.[slurm]'\n"
    assert list(tmp_path.iterdir()) == []


def test_runs_that_another_process_stopped_are_no_success_and_what_continues_them_repeats_none(command, monkeypatch):
    command(*GRID)
    done = JobReturn(status=JobStatus.COMPLETED)
    launch = "hydra_plugins.depthlab_sweeper.DepthlabSweeper._launch"  # by its name: Hydra loads it anew
    monkeypatch.setattr(launch, lambda sweeper, left: (dict.fromkeys(left, done), None))
    outcome = command(*GRID, "++rerun=true")
    assert (outcome.code, summaries()) == (1, {})
    (told,) = re.findall("^4 runs were stopped; to continue: python train.py (.*)", outcome.out, re.MULTILINE)
    assert told.split() == [*GRID]
    assert len([*Path("outputs/digits/.replaced").iterdir()]) == 4


@pytest.mark.parametrize("size", [1, 3])
def test_batches_of_runs(command, size):
    assert command(*GRID, f"hydra.sweeper.max_batch_size={size}").code == 0
    assert len(summaries()) == 4


def test_the_cheapest_rows_go_first_when_asked(command):
    grid = ("-m", "seed=0,1", "depth=14,8", "skip=none,identity", "data=digits", "width=4", "recipe.iterations=1")

    def order(*more):
        said = command(*grid, *more, "rerun=true").out
        return re.findall(r"^(\w+?)-.*(s\d)-\w+: finished", said, re.MULTILINE)

    rows = ["plain14", "resnet14", "plain8", "resnet8"]
    assert order() == [(row, seed) for seed in ("s0", "s1") for row in rows]
    assert order("order=cheapest") == [(row, seed) for row in rows[2:] + rows[:2] for seed in ("s0", "s1")]


def test_the_cheapest_go_first_also_where_small_images_would_not_do(command):
    words = ("network=unet_original", "depth=23", "data=nuclei", "data.size=128", "width=2", "epochs=0")
    assert command("-m", "order=cheapest", *words).code == 0


def test_an_experiment_on_several_data_sets_has_the_rows_of_each(command):
    words = ("experiment=degradation", "seed=0", "epochs=0")
    assert command(*words, 'data=digits, "mnist1d"').code == 0
    both = {path.name for path in Path("outputs/degradation").iterdir()}
    for data in ("digits", "mnist1d"):
        assert command(*words, f"data={data}", f"output_dir={data}").code == 0
    assert both == {path.name for data in ("digits", "mnist1d") for path in Path(data, "degradation").iterdir()}


def test_longer_runs_are_dearer(command):
    said = command(
        *("-m", "recipe.iterations=3,2,1", "depth=8", "data=digits", "width=4", "order=cheapest", "output_dir=runs")
    ).out
    assert re.findall(r": finished.* (\d) iterations", said) == ["1", "2", "3"]


def each(word):
    key, _, values = word.partition("=")
    return [f"{key}={value}" for value in values.split(",")]


def test_configs_composed_together_are_those_composed_one_by_one():
    loader = ConfigLoaderImpl(create_config_search_path(str(CONFIGS)))
    sweep = loader.load_configuration("train", ["hydra.verbose=true"], RunMode.MULTIRUN)
    words = "data=digits skip=scaled,none ++skip.scale=0.1,0.3 recipe/schedule=cosine ++recipe.rate=0.5 "
    words += "probe=[gradients] ++probe.gradients.every=2 weights={depth:8} seed=1"
    jobs = [list(job) for job in product(*map(each, words.split()))]
    assert len(jobs) == 4
    for job, made in zip(jobs, composed(loader, sweep, jobs), strict=True):
        assert made == without_hydra(loader.load_sweep_config(sweep, job))


def test_runs_that_differ_in_seed_or_rate_share_the_check_of_their_network(monkeypatch):
    built, build = [], Plan.build
    monkeypatch.setattr(Plan, "build", lambda self, *given: built.append(self.cfg.width) or build(self, *given))
    monkeypatch.setattr("depthlab.run.plan._blocks", {})
    loader = ConfigLoaderImpl(create_config_search_path(str(CONFIGS)))
    jobs = [list(job) for job in product(*map(each, ("depth=8", "width=4,6", "seed=0,1", "recipe.rate=0.1,0.2")))]
    plans = [plan(*made) for made in composed(loader, loader.load_configuration("train", [], RunMode.MULTIRUN), jobs)]
    assert built == [4, 6]
    assert len({planned.run.path for planned in plans}) == 8


@pytest.mark.parametrize(
    ("cores", "gpus", "left", "threads", "devices", "runs", "each"),
    [
        (1, 0, 9, [1], 1, 1, 1),
        (2, 0, 9, [1], 1, 2, 1),
        (64, 0, 270, [1], 1, 64, 1),
        (64, 0, 5, [1], 1, 5, 1),  # the last ones do not get more threads, which would round otherwise
        (64, 0, 270, [None], 1, 1, 64),  # all cores: one after another
        (64, 0, 270, [8], 1, 8, 8),
        (64, 0, 270, [1, 8], 1, 8, 8),
        (64, 0, 270, [1, None], 1, 1, 64),
        (64, 0, 270, [2], 4, 8, 8),
        (2, 0, 9, [8], 1, 1, 2),
        (64, 8, 270, [None], 1, 8, 8),
        (64, 8, 270, [1], 2, 4, 16),
        (2, 1, 9, [1], 1, 1, 2),
    ],
)
def test_how_the_machine_is_shared(monkeypatch, cores, gpus, left, threads, devices, runs, each):
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    configs = [
        SimpleNamespace(device=SimpleNamespace(name="auto"), devices=devices, threads=threads[n % len(threads)])
        for n in range(left)
    ]
    given = shared(configs)
    assert (given["runs"], given["threads"], given["gpus_each"]) == (runs, each, min(devices, gpus))
