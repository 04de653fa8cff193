"""An interrupted run goes on and ends bit for bit like one that was never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import depthlab
from conftest import ROOT, presets
from depthlab.command.words import over
from depthlab.network import norm
from depthlab.training import checkpoint, loop

# dropout draws from torch's random state, cifar-like augmentation from the data's, warm-up has a state of its own
RUN = (
    *("data=digits", "data.augment=true", "data.subset=200", "data.validation=20", "evaluate_train=true"),
    *("depth=8", "width=4", "skip=dropout", "recipe.batch=32", "recipe.iterations=16", "recipe.rate=0.05"),
    *("recipe.warmup.share=0.5", "recipe.warmup.until_error=70", "recipe.warmup.from_depth=0"),
)


def outcome_of_run():
    """Weights, momentum, random streams and curves of the one run in outputs/, without the times."""
    (run,) = Path("outputs/digits").glob("[!.]*")
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    saved.pop("clock")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in records + saved["records"]:
        record.pop("seconds")
    assert records == saved["records"]
    assert not [*run.glob("checkpoint-*")]
    summary = json.loads((run / "summary.json").read_text())
    return saved, records, summary["final"], summary["best"]


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture
def undisturbed(command):
    assert command(*RUN).code == 0
    outcome = outcome_of_run()
    Path("outputs").rename("undisturbed")
    return outcome


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_after_every_iteration_and_every_test_batch(command, undisturbed, monkeypatch, number, code):
    """A signal at each yield of the loop, evaluation batches included: each start gets one further."""
    straight = loop.train
    reached = 0

    def stopping(*args, **kwargs):
        nonlocal reached
        for count, metrics in enumerate(straight(*args, **kwargs)):
            if count == 4:
                reached += 1
                signal.raise_signal(number)
            yield metrics

    monkeypatch.setattr("depthlab.run.build.train", stopping)
    codes = []
    while (stop := command(*RUN)).code:
        codes.append(stop.code)
        assert "to continue: python train.py data=digits" in stop.out
        assert len(codes) < 30
        if len(codes) == 8:  # an evaluation is longer than 4 yields and starts again each time: let it pass
            monkeypatch.setattr("depthlab.run.build.train", straight)
    assert set(codes) == {code}
    assert reached == len(codes) >= 3
    assert same(outcome_of_run(), undisturbed)


# Every option that keeps something or draws by chance.
EACH = [f"{group}={name}" for group in ("skip", "norm", "weight") for name in presets(group)]
EACH += ["network=densenet"]
EACH += [f"recipe/optimizer={name}" for name in presets("recipe/optimizer")]
USUAL = {"skip=identity", "skip=concat", "norm=batch", "weight=plain"}


@pytest.mark.parametrize("option", [option for option in EACH if option not in USUAL])
def test_each_option_goes_on_bit_for_bit(command, monkeypatch, option):
    """Stopped after the twelfth iteration and, as the states of some optimisers then have another form, the first."""
    run = over([word for word in RUN if not word.startswith("skip=")], option, "recipe.rate=0.003")
    run = over(run, *["depth=7", "recompute=true"] * ("densenet" in option))
    assert command(*run).code == 0
    straight = outcome_of_run()
    Path("outputs").rename("undisturbed")
    trained = loop.train
    for stop_at in (1, 12) if "optimizer" in option else (12,):

        def stopping(state, *args, stop_at=stop_at, **kwargs):
            for metrics in trained(state, *args, **kwargs):
                if state.step == stop_at:
                    signal.raise_signal(signal.SIGINT)
                yield metrics

        monkeypatch.setattr("depthlab.run.build.train", stopping)
        assert command(*run).code == 130
    monkeypatch.setattr("depthlab.run.build.train", trained)
    assert command(*run).code == 0
    assert same(outcome_of_run(), straight)


def test_checkpoints_at_every_iteration_change_nothing(command, undisturbed):
    assert command(*RUN, "checkpoint_every=0").code == 0
    assert same(outcome_of_run(), undisturbed)


def test_killed_anywhere_around_the_end(command, undisturbed, monkeypatch):
    """The process dies between the last metrics, the last checkpoint and the summary."""

    class Killed(BaseException):
        pass

    def die(*args, **kwargs):
        raise Killed

    for name in ("run.directory.Run.finish", "run.describe.summary", "training.checkpoint.save"):
        with monkeypatch.context() as broken:
            broken.setattr(f"depthlab.{name}", die)
            with pytest.raises(Killed):
                command(*RUN, "checkpoint_every=0")
    assert command(*RUN).code == 0
    assert same(outcome_of_run(), undisturbed)


def test_kill_9_at_random_moments(command, undisturbed):
    start = [sys.executable, ROOT / "train.py", *RUN, "checkpoint_every=0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for wait in (0.0, 0.1):
        process = subprocess.Popen(start, stdout=subprocess.DEVNULL, env=environment)
        deadline = time.monotonic() + 60
        while not [*Path("outputs").rglob("checkpoint.pt")] and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(wait)
        process.kill()
        process.wait()
    time.sleep(1)  # TensorBoard orders event files by the second; a real start takes longer than one
    assert command(*RUN).code == 0
    outcome = outcome_of_run()
    assert same(outcome, undisturbed)
    (run,) = Path("outputs/digits").iterdir()
    shown = EventAccumulator(str(run)).Reload().Scalars("error/test")
    assert [(event.step, event.value) for event in shown] == [
        (record["step"], pytest.approx(record["test_error"])) for record in outcome[1]
    ]


@pytest.fixture
def stopped(command, undisturbed, monkeypatch):
    """The directory of a run that was stopped after an evaluation and, with a save each, two more iterations."""
    straight = checkpoint.save
    saves = 0

    def save_some_times(*args, **kwargs):
        nonlocal saves
        saves += 1
        if saves == 14:
            raise KeyboardInterrupt
        straight(*args, **kwargs)

    with monkeypatch.context() as broken:
        broken.setattr(checkpoint, "save", save_some_times)
        assert command(*RUN, "checkpoint_every=0").code == 130
    (run,) = Path("outputs/digits").iterdir()
    return run


@pytest.mark.parametrize("damage", [lambda old: old + b'{"step": 9, "epo', lambda old: b"", lambda old: b"damaged"])
def test_damaged_metrics_come_back_from_the_checkpoint(command, undisturbed, stopped, damage):
    metrics = stopped / "metrics.jsonl"
    assert metrics.read_bytes()
    metrics.write_bytes(damage(metrics.read_bytes()))
    assert command(*RUN).code == 0
    assert same(outcome_of_run(), undisturbed)


def flip(path):
    """One bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1000])])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(command, undisturbed, stopped, damage):
    newest, previous = stopped / "checkpoint.pt", stopped / "checkpoint-previous.pt"
    steps = [torch.load(path, weights_only=True)["step"] for path in (previous, newest)]
    assert steps[0] < steps[1]
    damage(newest)
    outcome = command(*RUN)
    assert (outcome.code, f"goes on  from iteration {steps[0]} of 16" in outcome.out) == (0, True)
    words = f"{newest} is damaged: going on from checkpoint-previous.pt, saved at iteration {steps[0]}\n"
    assert (words in outcome.out) == (damage is not Path.unlink)
    assert same(outcome_of_run(), undisturbed)


@pytest.mark.parametrize(
    ("name", "then", "words"),
    [
        ("_commit", lambda: "0123abc", "commit {commit} -> 0123abc"),
        ("version", {"depthlab": "9", "torch": "8"}.get, "depthlab 0.1.0 -> 9, torch {torch} -> 8"),
        ("platform.python_version", lambda: "4.0.0", "python {python} -> 4.0.0"),
    ],
)
def test_software_that_changed_since_the_checkpoint_is_told(
    command, undisturbed, stopped, monkeypatch, name, then, words
):
    saved = torch.load(stopped / "checkpoint.pt", weights_only=True)
    words = words.format(commit=saved["git_commit"], **saved["versions"])
    with monkeypatch.context() as changed:
        changed.setattr(f"depthlab.run.describe.{name}", then)
        out = command(*RUN).out
    assert out.count("goes on with other software") == 1
    assert f"{stopped.name}: goes on with other software than before: {words}\n" in out


def test_the_same_software_is_not_told(command, stopped):
    assert "other software" not in command(*RUN).out


def test_two_damaged_checkpoints_are_one_line_and_stay(command, stopped):
    names = ("checkpoint.pt", "checkpoint-previous.pt")
    for name in names:
        flip(stopped / name)
    before = [(stopped / name).read_bytes() for name in names]
    outcome = command(*RUN)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert outcome.err.startswith(f"error: {stopped / names[0]}: damaged (its content is not what was written)")
    assert outcome.err.endswith(f"together with {names[1]}, which is damaged too\n")
    assert [(stopped / name).read_bytes() for name in names] == before


def test_a_finished_run_is_not_measured_on_an_older_checkpoint(command, stopped):
    """It was killed after its summary was written and before its last but one checkpoint was removed."""
    previous = (stopped / "checkpoint-previous.pt").read_bytes()
    assert command(*RUN).code == 0
    (stopped / "checkpoint-previous.pt").write_bytes(previous)
    flip(stopped / "checkpoint.pt")
    outcome = command(*RUN, "probe=gradients")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "checkpoint.pt: damaged" in outcome.err


def test_a_checkpoint_of_before_seals_and_kept_records_goes_on(command, undisturbed, stopped):
    path = stopped / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    del saved["records"]
    torch.save(saved, path)
    assert command(*RUN).code == 0
    assert same(outcome_of_run(), undisturbed)


@pytest.mark.parametrize("damage", [b"", b"damaged", None])
def test_a_damaged_checkpoint_is_refused(command, damage):
    assert command(*RUN).code == 0
    (path,) = Path("outputs").rglob("checkpoint.pt")
    path.with_name("summary.json").unlink()
    path.write_bytes(path.read_bytes()[:-1000] if damage is None else damage)
    outcome = command(*RUN)
    assert outcome.code == 2
    assert "checkpoint.pt: damaged" in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_checkpoint_of_another_config_is_refused(command):
    assert command(*RUN).code == 0
    (path,) = Path("outputs").rglob("checkpoint.pt")
    path.with_name("summary.json").unlink()
    torch.save(torch.load(path, weights_only=True) | {"digest": "00000000"}, path)
    outcome = command(*RUN)
    assert outcome.code == 2
    assert "checkpoint of another config" in outcome.err


def test_a_full_disk_ends_the_run_with_one_line_and_the_same_command_continues(command, undisturbed, monkeypatch):
    def full(self, record):
        raise OSError(28, "No space left on device", "metrics.jsonl")

    with monkeypatch.context() as broken:
        broken.setattr("depthlab.run.directory.Run.append", full)
        outcome = command(*RUN)
    assert outcome.code == 1
    assert outcome.err == "error: metrics.jsonl: No space left on device; the same command continues\n"
    assert command(*RUN).code == 0
    assert same(outcome_of_run(), undisturbed)


def test_a_diverged_run_is_a_result(command):
    arguments = ("data=digits", "depth=8", "width=4", "norm=none", "recipe.rate=1e30", "recipe.iterations=40")
    assert command(*arguments, "recipe/schedule=constant").code == 0
    (path,) = Path("outputs").rglob("summary.json")
    summary = json.loads(path.read_text())
    assert summary["status"] == "diverged"
    assert 0 < summary["diverged_at"] < 23
    assert summary["iterations"] == 40  # the evaluation that found it
    assert summary["final"]["train_loss"] is None
    assert "done before" in command(*arguments, "recipe/schedule=constant").out


def test_the_seed_decides_everything(command):
    first, again = (command(*RUN, "rerun=true") and outcome_of_run() for _ in range(2))
    assert same(first, again)
    Path("outputs").rename("first")
    command(*RUN, "seed=1")
    assert not same(outcome_of_run(), first)


@pytest.mark.parametrize(
    ("words", "steps"), [("epochs=2", 16), ("recipe.iterations=5", 5), ("recipe.iterations=5 norm.steps=9", 9)]
)
def test_a_norm_that_changes_over_the_run_knows_its_length(tmp_path, monkeypatch, words, steps):
    monkeypatch.chdir(tmp_path)
    told = set()
    monkeypatch.setattr(
        norm._Momentum, "correction", lambda self, mean, var, size: told.add(self.run_length) or (var.sqrt(), mean)
    )
    depthlab.run(f"data=digits data.subset=64 recipe.batch=8 depth=8 width=4 norm=momentum {words}")
    assert told == {steps}


def test_a_probe_at_the_start_is_told_the_first_iterations_rate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "data=digits data.subset=64 depth=8 width=4 recipe.iterations=9 recipe.rate=0.5 recipe.schedule.start=20"
    depthlab.run(f"{words} probe=activations probe.activations.images=8")
    (file,) = Path("outputs/digits").glob("*/probe-activations.jsonl")
    first, *_ = map(json.loads, file.read_text().splitlines())
    assert (first["step"], first["rate"]) == (0, pytest.approx(0.5 / 20))
