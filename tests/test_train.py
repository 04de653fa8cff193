"""The command as a person meets it."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from hydra._internal.hydra import Hydra
from hydra.types import RunMode

import depthlab
from conftest import ROOT, another_process_holds
from depthlab.command.compose import compose
from depthlab.command.words import over
from depthlab.config import typed_again
from depthlab.run import build, start
from depthlab.run.directory import InUse
from depthlab.run.plan import plan

SHORT = ("data=digits", "depth=8", "width=4", "recipe.iterations=3")

# what is typed, and what the one line must say
MISTAKES = {
    "depth=21": "depth=21: basic blocks make 6n+2 layers: nearest 20 and 26",
    "depth=29": "block=bottleneck fits",
    "depth=1": "nearest 8",
    "depth=abc": "depth=abc: a whole number",
    "seed=1.5": "seed=1.5: a whole number",
    "precision=tf32 recompute=true device=cpu": "precision=tf32: emulated on a CPU, and so not together",
    "data.augment=maybe": "data.augment=maybe: true or false",
    "recipe.nesterov=[1]": "recipe.nesterov=[1]: true or false",
    "recipe/schedule=step recipe.schedule.drops=0.5": "drops=0.5: a list, as in [a, b]",
    "dpth=20": "did you mean depth?",
    "recipe.rte=1": "did you mean recipe.rate?",
    "skip=identiy": "did you mean identity? (allowed: concat, conv, dropout, exclusive_gate, identity, layerscale,",
    "skip.scale=2": "no such option; skip=rescaled, skip=scaled, skip=scaled_both have it",
    "+skip.scale=2": "skip.scale=2: no such option; skip=identity takes none",
    "skip=scaled skip.scale=x": "skip.scale=x: a number",
    "skip=scaled skip.scale=nan": "skip.scale=nan: a finite number",
    "skip=scaled +skip.scal=2": "skip.scal=2: no such option; did you mean scale?",
    "skip=dropout skip.p=1.5": "skip.p=1.5: a probability",
    "norm=group norm.groups=3": "norm.groups=3: does not divide 4 channels (nearest: ",
    "norm=ghost norm.size=0": "norm.size=0",
    "init=looks_linear width=5": "init=looks_linear: pairs channels, and 5 is odd",
    "activation=mirrored_relu width=5": "activation=mirrored_relu: pairs channels, and 5 is odd",
    "activation=tailored activation.eta=1": "activation.eta=1.0: above 0 and under 1",
    "init=fixup skip=none": "init=fixup: no unit has a shortcut (skip=none, or a U-Net)",
    "skip=stochastic_depth skip.survival=2": "skip.survival=2.0: a probability",
    "weight=dirac network=mlp": "weight=dirac: of convolutions, and network=mlp has none",
    "weight=standardize": "did you mean standardised?",
    "recipe/optimizer=adam": "did you mean adamw?",
    "init.fan=in": "did you mean fan_in?",
    "init.name=system": "init.name=system: an option is chosen by its group: init=system",
    "block=basc": "block=basc: did you mean basic? (allowed: basic, bottleneck, single)",
    "network=imagenet depth=19": "depth=19: nearest 18 and 34",
    "network=imagenet depth=50 block=basic": "made of bottleneck blocks",
    "network=mlp block=bottleneck": "allowed: single, basic",
    "recipe.batch=1438": "recipe.batch=1438: from 1 to 1437 (the data holds 1437 training images)",
    "recipe.batch=0": "recipe.batch=0: at least 1",
    "recipe.rate=-0.1": "recipe.rate=-0.1: above 0",
    "recipe.momentum=1": "recipe.momentum=1.0: at least 0 and under 1",
    "recipe.decay_on=weight": "did you mean weights?",
    "recipe/schedule=cosin": "did you mean cosine?",
    "recipe.schedule.rise=a": "recipe.schedule.rise=a",
    "epochs=-1 recipe.iterations=null": "epochs=-1.0: from 0 to 1000000",
    "lr=0.1": "lr: no such option; did you mean recipe.rate?",
    "depth=20,56": "values with commas are a sweep: add -m",
    "network=mlp norm=instance": "try norm=layer",
    "output_dir=/etc/passwd": "output_dir: cannot write /etc/passwd",
    "threads=0": "threads=0: from 1 to 1024",
    "seed=-1": "seed=-1: from 0 to 2147483647",
    "seed=99999999999999999999999": "seed=99999999999999999999999: from 0",
    "recipe.schedule=cosin": "recipe.schedule=cosin: did you mean cosine?",
    "recipe.schedule=step": "write recipe/schedule=step",
    "recipe.schedule.start=0": "recipe.schedule: no rate at iteration 0",
    "recipe/schedule=step recipe.schedule.drops=[nan]": "a finite number",
    "recipe/schedule=exponential recipe.schedule.growth=-1": "the rate of iteration 1 is -0.1",
    "recipe.rate=1e39": "the rate of iteration",
    "skip=null": "skip=null: did you mean none? (allowed: concat, ",
    "-m depth=8 -c job": "-m -c: one of them at a time",
    "lr=default": "lr: no such option; did you mean recipe.rate?",
    "width=${recipe.batchs}": "width: ${recipe.batchs} is no option",
    "hydra=x": "hydra: no such option; did you mean threads? (allowed: ",
    "output_dir=${HOME}/runs": "output_dir: ${HOME} is no option; a variable of the shell is ${oc.env:HOME}",
    "network/depth=8": "network/depth: no such option; did you mean network?",
    "--depth=20": "--depth=20: no such flag; options are typed without dashes, as in depth=20",
    "--foo": "--foo: no such flag",
    "skip=mine": "stochastic_depth); one of your own: options=FOLDER",
    "skip=learned": "skip=learned: no such skip; one of your own: options=FOLDER (allowed: concat, conv,",
    "probe=[zzz]": "probe=zzz: no such probe; one of your own: options=FOLDER (allowed: activations,",
    "experiment=zzz": "experiment=zzz: no such experiment; one of your own: --config-dir FOLDER (allowed: ",
    "network=zzz": "network=zzz: no such network (allowed: densenet,",
    "config=nowhere.yaml": "config=nowhere.yaml: no such file",
    f"config={ROOT}/pyproject.toml": "pyproject.toml: not the config.yaml of a run",
    f"config={ROOT}/configs/train.yaml": "train.yaml: not the config.yaml of a run",
    "checkpoint_every=-1": "checkpoint_every=-1.0: from 0 to 1000000000",
    "devices=65": "devices=65: cannot share recipe.batch=",
    "norm=4": "chosen by its name",
    "~data=70": "~data=70: nothing is taken away",
    "skip.name=[1]": "skip.name=[1]: an option is chosen by its group: skip=[1]",
    "+recipe.rte=3": "recipe.rte: no such option; did you mean rate?",
    "++recipe.warmup.rat=3": "recipe.warmup.rat: no such option; did you mean rate?",
    "~recipe.rate": "nothing is taken away; give another value",
    "++dpth=3": "dpth: no such option; did you mean depth?",
    "~seed": "nothing is taken away",
    "data.validation=1437": "data.validation=1437",
    "data=imagenet depth=18": "data.root",
    "data=cifar10 data.source=/nowhere": "/nowhere",
    "config=/": "no such file",
    "output_dir=/proc/outputs": "output_dir: cannot write /proc/outputs",
    "depth": "not of the form option=value",
    "-m depth=8,21": "depth=21",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_one_line_exit_2_and_nothing_written(command, tmp_path, typed):
    outcome = command(*over(SHORT, *typed.split()))
    assert outcome.code == 2
    assert MISTAKES[typed] in outcome.err
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings(r"ignore:\s*'hydra/launcher/")  # as in train.py
@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("depth=8 -p", "argument --package/-p: expected one argument"),
        ("depth=8 hydra/launcher=joblib", "hydra/launcher=joblib: starts the runs of a sweep; add -m"),
        ("experiment=imagenet_depth", "data.root=null: expected a folder that holds train/CLASS/*.JPEG and "),
    ],
)
def test_a_mistake_of_the_whole_command_is_one_line(command, tmp_path, typed, line):
    outcome = command(*typed.split())
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert outcome.err.startswith(f"error: {line}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is there")
def test_a_gpu_that_is_not_there(command, tmp_path):
    outcome = command(*SHORT, "device=cuda")
    assert (outcome.code, list(tmp_path.iterdir())) == (2, [])
    assert "device=cuda" in outcome.err


def test_help_names_every_option_and_its_values(command):
    text = command("--help").out
    for group in (path for path in (ROOT / "configs").iterdir() if path.is_dir() and path.name != "hydra"):
        assert f"{group.name}=" in text
        for choice in group.glob("*.yaml"):
            assert f"  {choice.stem} " in text
    assert "skip.scale=0.5, skip.branch=1.0" in text


def test_help_does_not_import_torch():
    code = (
        "import sys; sys.argv = ['train.py', '--help']; import train; train.cli(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_a_command_that_recomputes_begins_again_without_the_allocators_cache(command, monkeypatch):
    began = []
    monkeypatch.setattr("depthlab.command.cli.start_uncached", lambda: began.append(1))
    for word in ("recompute=false", "depth=8", "recompute=true"):
        assert not began
        assert command(word, "data=digits", "-c", "job").code == 0
    assert began


def test_the_config_is_composed_once_and_the_words_say_how_many_runs(command, monkeypatch):
    compose, modes = Hydra.compose_config, []

    def counted(self, *words, run_mode, **named):
        modes.append(run_mode)
        return compose(self, *words, run_mode=run_mode, **named)

    monkeypatch.setattr(Hydra, "compose_config", counted)
    small = ("data=digits", "depth=8", "width=4", "epochs=0")
    assert command(*small).code == 0
    assert modes == [RunMode.RUN]
    modes.clear()
    assert "  2 finished\n" in command(*small, "seed=0,1", "hydra.mode=MULTIRUN").out
    assert modes == [RunMode.MULTIRUN]


def test_a_finished_run_is_recognised_and_repeated_only_on_demand(command):
    first = command(*SHORT)
    assert first.code == 0
    (run,) = Path("outputs/digits").iterdir()
    summary = (run / "summary.json").read_text()
    assert f"writes   {run}" in first.out
    second = command(*SHORT)
    assert second.code == 0
    assert "done before" in second.out
    assert (run / "summary.json").read_text() == summary
    assert command(*SHORT, "rerun=true").code == 0
    again = json.loads((run / "summary.json").read_text())
    assert again["final"] == json.loads(summary)["final"]
    assert (run.parent / ".replaced" / f"{run.name}-1" / "summary.json").read_text() == summary


def test_the_run_directory_holds_what_the_design_lists(command):
    command(*SHORT, "evaluate_train=true")
    (run,) = Path("outputs/digits").iterdir()
    assert run.name.startswith("resnet8-identity-batch-s0-")
    names = {path.name for path in run.iterdir() if "tfevents" not in path.name}
    assert names == {".lock", "config.yaml", "metrics.jsonl", "summary.json", "checkpoint.pt", "train.log"}
    assert len([*run.glob("events.out.tfevents.*")]) == 1
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["choices"]["skip"] == "identity"
    assert summary["parameters"] > 0
    assert summary["iterations"] == 3
    assert {"train_error", "test_error", "train_loss", "test_loss", "clean_train_error"} <= summary["final"].keys()


def test_a_sweep_does_each_run_once_and_the_second_time_none(command):
    grid = ("-m", "skip=none,identity", "seed=0,1", *SHORT)
    first = command(*grid)
    assert first.code == 0
    assert first.out.startswith("4 runs: 0 done, 4 to run\n")
    assert first.out.endswith("tensorboard --logdir outputs\npython scripts/report.py outputs/digits\n")
    assert len([*Path("outputs/digits").iterdir()]) == 4
    assert not Path("outputs/multirun.yaml").exists()
    second = command(*grid)
    assert second.out.startswith("4 runs: 4 done, 0 to run\n")
    assert second.out.count(": finished, ") == 4


@pytest.mark.parametrize("typed", ["depth=8,14 -m seed=1", "-m depth=8,14 --config-dir . seed=1"])
def test_options_stand_on_either_side_of_a_flag(command, typed):
    outcome = command(*over(SHORT, *typed.split()))
    assert (outcome.code, outcome.err) == (0, "")
    assert {path.name.rpartition("-")[0] for path in Path("outputs/digits").iterdir()} == {
        "resnet8-identity-batch-s1",
        "resnet14-identity-batch-s1",
    }


def test_one_failed_run_does_not_stop_the_others(command):
    Path("outputs").mkdir()
    assert command(*SHORT, "seed=1").code == 0
    (run,) = Path("outputs/digits").iterdir()
    (run / "summary.json").unlink()
    (run / "checkpoint.pt").write_bytes(b"damaged")
    outcome = command("-m", "seed=1,2", *SHORT)
    assert outcome.code == 1
    assert f"{run.name}: failed:" in outcome.out
    assert "damaged" in outcome.out
    assert "-s2-" in outcome.out
    assert len([*Path("outputs/digits").glob("*/summary.json")]) == 1


def test_a_run_in_use_is_refused_and_in_a_sweep_stops_no_other(command):
    assert command(*SHORT, "seed=1").code == 0
    (run,) = Path("outputs/digits").iterdir()
    (run / "summary.json").unlink()
    with another_process_holds(run / ".lock") as other:
        before = {path: path.read_bytes() for path in run.iterdir()}
        for again in ((), ("rerun=true",)):
            outcome = command(*SHORT, "seed=1", *again)
            assert (outcome.code, outcome.err.count("\n")) == (2, 1)
            assert outcome.err.startswith(f"error: {run}: in use by process {other.pid} on ")
        outcome = command("-m", "seed=1,2", *SHORT)
        assert outcome.code == 1
        assert f"{run.name}: failed: {run}: in use by process {other.pid} on " in outcome.out
        assert "-s2-" in outcome.out
        assert {path: path.read_bytes() for path in run.iterdir()} == before
    assert command(*SHORT, "seed=1").code == 0


def test_a_finished_run_in_use_is_recognised_and_not_set_aside(command):
    assert command(*SHORT).code == 0
    (run,) = Path("outputs/digits").iterdir()
    with another_process_holds(run / ".lock"):
        assert "done before" in command(*SHORT).out
        assert "in use by" in command(*SHORT, "rerun=true").err
    assert [*run.parent.iterdir()] == [run]


def test_a_config_yaml_alone_gives_the_run_again(command, tmp_path):
    typed = "skip=rescaled skip.scale=0.6 init=kaiming_zero_last unit=preact recipe/schedule=cosine epochs=0.2"
    typed += " probe=[gradients] probe.gradients.images=32 folder=mine"
    assert command(*SHORT[:3], *typed.split()).code == 0
    (old,) = Path("outputs/mine").iterdir()
    old.rename(tmp_path / "old")
    outcome = command("config=old/config.yaml", "output_dir=again")
    assert (outcome.code, outcome.err) == (0, "")
    (new,) = Path("again/mine").iterdir()
    assert new.name == old.name

    def told(run):
        files = [run / "metrics.jsonl", run / "probe-gradients.jsonl"]
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        summary = json.loads((run / "summary.json").read_text())
        return [line | {"seconds": 0} for line in lines], summary["choices"], summary["final"]

    assert told(new) == told(tmp_path / "old")
    assert (new / "config.yaml").read_text().replace("again", "outputs") == Path("old/config.yaml").read_text()


def test_what_is_typed_beside_a_config_yaml_goes_before(command):
    command(*SHORT, "skip=scaled", "skip.scale=0.7")
    (run,) = Path("outputs/digits").iterdir()
    assert command("-m", f"config={run}/config.yaml", "seed=1,2").code == 0
    assert command(f"config={run}/config.yaml", "skip=identity").code == 0
    assert command(f"config={run}", "recipe/schedule=cosine", "output_dir=other").code == 0
    assert command(f"config={run}", "recipe/optimizer=adamw", "output_dir=other").code == 0
    assert typed_again() == f"python train.py config={run} recipe/optimizer=adamw output_dir=other"
    other = [yaml.safe_load(path.read_text())["recipe"] for path in Path("other/digits").glob("*/config.yaml")]
    assert {(recipe["schedule"]["name"], recipe["optimizer"]["name"], recipe["rate"]) for recipe in other} == {
        ("cosine", "sgd", 0.1),
        ("one_cycle", "adamw", 0.001),
    }
    assert sorted(path.name.rpartition("-")[0] for path in Path("outputs/digits").iterdir()) == [
        "resnet8-identity-batch-s0",
        *(f"resnet8-scaled_0.7_1-batch-s{seed}" for seed in range(3)),
    ]


def test_epochs_0_measures_the_network_at_initialisation(command):
    assert command(*SHORT, "epochs=0").code == 0
    (metrics,) = Path("outputs/digits").glob("*/metrics.jsonl")
    (record,) = map(json.loads, metrics.read_text().splitlines())
    assert record["step"] == 0
    assert 50 < record["test_error"] <= 100
    assert "train_error" not in record
    out = command("-m", *SHORT, "epochs=0").out
    assert out.splitlines()[2].endswith("1 finished")  # no errors, as none was learned


def test_a_run_of_another_config_in_the_same_directory_is_refused(command):
    command(*SHORT)
    (run,) = Path("outputs/digits").iterdir()
    (run / "summary.json").unlink()
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("rate: 0.1", "rate: 0.2"))
    outcome = command(*SHORT)
    assert outcome.code == 2
    assert "not this run's config" in outcome.err


def test_the_readme_main_command_works_as_a_process_and_imports_no_compiler(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    typed = [sys.executable, "-X", "importtime", ROOT / "train.py", *SHORT]
    done = subprocess.run(typed, cwd=tmp_path, env=environment, capture_output=True, text=True)
    imported = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
    assert (done.returncode, done.stderr.count("\n")) == (0, done.stderr.count("import time:"))
    assert "torch" in imported
    assert "torch._dynamo" not in imported
    assert "tensorboard --logdir outputs" in done.stdout


def test_weights_from_elsewhere_are_evaluated_and_known_by_their_content(command, tmp_path):
    short = ("data=synthetic", "depth=8", "width=4", "data.images=64", "recipe.batch=32", "device=cpu")
    assert command(*short, "recipe.iterations=40").code == 0
    (run,) = Path("outputs/synthetic").iterdir()
    wanted = json.loads((run / "summary.json").read_text())["final"]["test_error"]
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes((run / "checkpoint.pt").read_bytes())
    outcome = command(*short, "epochs=0", "seed=3", "weights=a.pt")
    assert "  weights  a.pt, by depthlab's names\n" in outcome.out
    assert f"not trained (epochs=0), test error {wanted:.2f} %" in outcome.out
    assert "done before" in command(*short, "epochs=0", "seed=3", "weights=b.pt").out
    (started,) = Path("outputs/synthetic").glob("*-s3-*")
    (tmp_path / "a.pt").unlink()
    assert "done before" in command(f"config={started}/config.yaml").out
    outcome = command(*short[:1], "depth=14", *short[2:], "weights=b.pt", "epochs=0")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "b.pt: depthlab's names of depth=8 width=4, does not fit this network: it lacks stages.0.1" in outcome.err


def test_a_twin_that_another_process_begins_in_the_meantime_is_waited_for(command, monkeypatch):
    """Between the look whether somebody has it and the start somebody may take it, as the other worker of a sweep."""
    words = ("data=digits", "data.subset=64", "skip=none", "width=4", "recipe.batch=32", "recipe.iterations=2")
    session, tried = start.Session, []

    def taken(planned, *parts, **keys):
        tried.append(planned.cfg.depth)
        if len(tried) == 1:
            raise InUse("in use by process 1")
        return session(planned, *parts, **keys)

    monkeypatch.setattr(start, "Session", taken)
    assert command(*words, "depth=14", "weights={depth:8}").code == 0
    assert tried == [8, 8, 14]


def test_a_twin_in_float64(command):
    short = ("data=digits", "data.subset=64", "skip=none", "width=4", "recipe.batch=32", "precision=fp64")
    outcome = command(*short, "recipe.iterations=2", "depth=14", "weights={depth:8}")
    assert (outcome.code, outcome.err) == (0, "")


def test_a_run_of_its_config_alone_in_a_folder_of_any_name(command):
    """Letters beyond ASCII, quotes, backslashes and blanks in a path are what they were."""
    name = 'josé\'s \\ "runs"'
    words = ("data=digits", "data.subset=64", "width=4", "depth=8", "recipe.batch=32", "recipe.iterations=2")
    assert command(*words, f"output_dir={name}").code == 0
    (config,) = Path(name).glob("digits/*/config.yaml")
    assert "done before" in command(f"config={config}").out
    assert [path.name for path in Path().iterdir()] == [name]


def test_weights_from_elsewhere_are_trained_on_with_a_head_for_other_classes(command, monkeypatch):
    short = ("depth=8", "width=4", "recipe.batch=32", "device=cpu", "network.shortcut=B", "norm=layer")
    assert command("data=synthetic", "data.images=64", "data.test_images=8", *short, "recipe.iterations=3").code == 0
    (run,) = Path("outputs/synthetic").iterdir()
    parts = {"x_train": (64, 6, 6, 3), "x_test": (8, 6, 6, 3)}
    arrays = {name: np.random.default_rng(0).integers(0, 256, shape, np.uint8) for name, shape in parts.items()}
    arrays |= {"y_train": np.arange(64) % 3, "y_test": np.arange(8) % 3}
    np.savez("three.npz", **arrays)
    words = ("data=folder", "data.root=three.npz", *short, f"weights={run}/checkpoint.pt")
    outcome = command(*words, "epochs=0")
    assert (outcome.code, "the file's head is not for 3 classes; with epochs" in outcome.err) == (2, True)
    assert command(*words, "recipe.iterations=1", "recipe.rate=1e-9").code == 0
    (tuned,) = Path("outputs/folder").glob("[!.]*")
    theirs, ours = (torch.load(path / "checkpoint.pt", weights_only=True)["net"] for path in (run, tuned))
    assert ours["head.weight"].shape == (3, 16)
    for name, tensor in theirs.items():
        if not name.startswith("head"):
            torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6)


def test_weights_of_a_shallower_twin(command):
    """Which is trained first where it is not there; the run that starts from it has its errors, and goes on."""
    short = ("data=digits", "data.subset=200", "skip=none", "width=4", "recipe.iterations=20", "evaluate_train=true")
    out = command(*short, "depth=14", "weights={depth:8}", "epochs=0").out
    assert ", and 6 layers that begin as the identity\n" in out
    assert re.search(r": finished, not trained \(epochs=0\), clean train error \d+\.\d\d %, test error \d+", out)
    assert "done before" in command(*short, "depth=8").out
    begins = (*short[:4], "depth=14", "weights={depth:8}", "epochs=0", "output_dir=less")
    for length in (2, 3):  # the twin's, as the run itself has none
        assert "done before" not in command(*begins, f"recipe.iterations={length}").out
    summaries = [json.loads(path.read_text()) for path in Path("outputs/digits").glob("*/summary.json")]
    deep, twin = sorted(summaries, key=lambda summary: summary["iterations"])
    assert (deep["depth"], deep["iterations"], twin["depth"], twin["iterations"]) == (14, 0, 8, 20)
    for metric in ("clean_train_error", "test_error", "test_loss"):
        assert deep["final"][metric] == pytest.approx(twin["final"][metric], rel=1e-4)
    (config,) = [path for path in Path("outputs/digits").glob("*/config.yaml") if "epochs: 0" in path.read_text()]
    assert command(f"config={config}", "output_dir=again").code == 0  # the twin is trained as long again
    again = [json.loads(path.read_text()) for path in Path("again/digits").glob("*/summary.json")]
    assert sorted(summary["iterations"] for summary in again) == [0, 20]
    assert min(again, key=lambda summary: summary["iterations"])["final"] == deep["final"]
    net = depthlab.network([*short, "depth=14", "weights={depth:8}"])
    assert sum(p.numel() for p in net.parameters()) == deep["parameters"]

    goes_on = ("depth=14", "weights={depth:8,recipe.rate:0.1}", "recipe.rate=0.001")
    assert "  weights  those of plain8-" in command(*short, *goes_on).out
    (config,) = [path for path in Path("outputs/digits").glob("*/config.yaml") if "rate: 0.001" in path.read_text()]
    assert "done before" in command(f"config={config}").out
    curve = [json.loads(line) for line in (config.parent / "metrics.jsonl").read_text().splitlines()]
    assert curve[-1]["train_loss"] < 1.2 * twin["final"]["train_loss"] + 0.1 < 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("weights={dept:8}",), "error: weights.dept: no such option; did you mean depth?"),
        (("weights={depth:{}}",), "error: weights.depth={}: a whole number"),
        (("weights={depth:8,width:{}}",), "error: weights.width={}: a whole number"),
        (("weights={recipe:{rate:1},recipe.rate:2}",), "error: weights.recipe.rate: two values for one option"),
        (("weights={depth:20}",), "error: weights: its layers are not among this network's; only the depth may"),
        (("weights={depth:x}",), "error: weights.depth=x: "),
        (("weights={depth:9}",), "error: depth=9: basic blocks make 6n+2 layers: nearest 8 and 14"),
        (("weights={depth:8}", "norm=group"), "error: weights: here an added layer cannot be the identity"),
        (("weights={depth:8}", "weight=dirac"), "error: weights: here an added layer cannot be the identity"),
        (("weights={depth:8}", "skip=scaled"), "error: weights: here an added layer cannot be the identity"),
        (
            ("weights={depth:8}", "skip=stochastic_depth"),
            "error: weights: here an added layer cannot be the identity",
        ),
        (("weights=[8]",), "error: weights: a file, or options of the run whose weights are meant"),
    ],
)
def test_no_weights_of_a_twin(command, words, line):
    small = "data=digits data.subset=64 recipe.batch=32 depth=14 epochs=1 skip=none"
    outcome = command(*over(small.split(), *words))
    assert (outcome.code, outcome.err[: len(line)], outcome.err.count("\n")) == (2, line, 1)
    assert not [*Path("outputs").rglob("config.yaml")]  # not even the twin is trained


REFUSED = {
    "data=scenes width=4 init=looks_linear norm=none": "init=looks_linear: pairs the channels of layers in a row",
    "data=digits recipe/optimizer=kfac weight=dirac": "recipe/optimizer=kfac: sees plain weights alone; leave out",
    "data=digits recipe/optimizer=adamw recipe.optimizer.eps=0": "recipe.optimizer.eps=0.0: above 0",
    "data=digits recipe/optimizer=muon recipe.optimizer.others=-1": "recipe.optimizer.others=-1.0: at least 0",
    "data=digits weight=standardised weight.gain=0": "weight.gain=0.0: above 0",
    "data=digits weight=standardised weight.eps=-1": "weight.eps=-1.0: above 0",
    "data=digits skip=nf skip.alpha=0": "skip.alpha=0.0: above 0",
    "data=digits norm=fixup init=fixup weight=dirac": "init=fixup: scales weights, which these are made anew from",
    "data=digits unit=relu_before_addition init=fixup norm=fixup": "init=fixup: a branch that ends in a ReLU",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_combinations_that_cannot_be_meant_are_refused(command, typed):
    outcome = command(
        *typed.split(), "depth=8" if "digits" in typed else "depth=14", *["network.levels=1"] * ("scenes" in typed)
    )
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
    assert outcome.err.startswith(f"error: {REFUSED[typed]}")


def test_a_twin_of_fully_connected_layers(command):
    short = ("data=digits", "data.subset=200", "network=mlp", "skip=none", "width=16", "recipe.iterations=20")
    for normed in ("batch", "none"):
        words = (*short, f"norm={normed}", "evaluate_train=true")
        assert command(*words, "depth=9", "weights={depth:4}", "epochs=0").code == 0
    rows = {(row["norm"], row["depth"]): row for row in depthlab.runs()}
    for normed in ("batch", "none"):
        deep, twin = rows[normed, 9], rows[normed, 4]
        assert deep["clean_train_error"] == twin["clean_train_error"] < 85


def test_a_config_in_the_home_folder(command, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command(*SHORT, "output_dir=~/runs").code == 0
    (config,) = (tmp_path / "runs/digits").glob("*/config.yaml")
    assert "done before" in command(f"config=~/{config.relative_to(tmp_path)}").out


def test_imagenets_folder_is_the_same_however_it_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "data=imagenet depth=18 recipe.iterations=5"
    made = [plan(*compose(shlex.split(f"{words} data.root={root}"))) for root in (f"{tmp_path}/set", "set", "./set/")]
    assert len({planned.run.path for planned in made}) == 1


@pytest.mark.parametrize(
    ("words", "epochs"),
    [
        ("experiment=smoothness data=digits", 6),
        ("experiment=smoothness data=digits recipe.iterations=100", None),
        ("experiment=variance_growth data=digits recipe.iterations=100", 0),  # at initialisation
        ("data=folder recipe.iterations=100", None),
        ("data=folder", 20),
    ],
)
def test_iterations_that_are_typed_count(words, epochs):
    assert compose(words.split()).cfg.epochs == epochs


def test_a_run_again_takes_another_length(command):
    assert command("data=digits", "depth=8", "width=4", "epochs=0.1").code == 0
    (config,) = Path("outputs/digits").glob("*/config.yaml")
    assert ", 4 iterations in" in command(f"config={config}", "recipe.iterations=4").out
    assert (
        "error: recipe.iterations=null: a whole number, or epochs=" in command(f"config={config}", "epochs=null").err
    )


def test_epochs_that_are_no_binary_number():
    images, cfg = SimpleNamespace(images=50_000), SimpleNamespace(epochs=1.1, recipe=SimpleNamespace(batch=100))
    assert build.iterations(cfg, images) == 550


def test_a_norm_that_changes_over_the_run_begins_anew_with_weights_from_a_file(command):
    short = ("data=digits", "data.subset=64", "depth=8", "width=4", "recipe.batch=8", "norm=renorm_short")
    assert command(*short, "recipe.iterations=7").code == 0
    (run,) = Path("outputs/digits").iterdir()
    assert command(*short, "recipe.iterations=2", f"weights={run}/checkpoint.pt").code == 0
    (tuned,) = [path for path in Path("outputs/digits").glob("[!.]*") if path.name != run.name]
    counts = {
        v.item() for k, v in torch.load(tuned / "checkpoint.pt", weights_only=True)["net"].items() if "num_b" in k
    }
    assert counts == {2}


def test_a_twin_whose_added_layers_could_not_learn_is_refused_before_it_is_trained(command):
    words = ("data=digits", "data.subset=64", "width=4", "recipe.iterations=2", "depth=14", "weights={depth:8}")
    outcome = command(*words, "unit=relu_before_addition")
    assert (outcome.code, outcome.err.startswith("error: weights: a branch that ends in a ReLU")) == (2, True)
    assert not Path("outputs").exists()
    for more in (("unit=relu_before_addition", "epochs=0"), ("skip=rezero",)):
        assert command(*words, *more).code == 0


def test_the_version_is_ours(command):
    assert re.fullmatch(r"python \S+, (depthlab \S+, )?torch \S+\n", command("--version").out)


@pytest.mark.parametrize("line", ["train.py dep", "train.py seed=0 -m dep", "train.py -m seed=0 --config-dir . dep"])
def test_completion_takes_options_on_either_side_of_a_flag(command, monkeypatch, line):
    monkeypatch.setenv("COMP_LINE", f"python {line}")
    outcome = command("-sc", "query=bash")
    assert (outcome.code, outcome.out, outcome.err) == (0, "depth=\n", "")
