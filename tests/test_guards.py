"""What comes from elsewhere is read and never run: names on the command line, stored configs, checkpoints."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from depthlab import config, probes
from depthlab.errors import Mistake
from depthlab.plan import MODULES
from depthlab.reports.collect import load
from depthlab.training import optimizer, schedule

SHORT = ("data=digits", "depth=8", "width=4", "recipe.iterations=3")
ALL = MODULES | {"recipe.schedule": schedule, "recipe.optimizer": optimizer, "probe": probes}

# What a module holds beside its options: modules, classes and functions from elsewhere, and what Python gives it.
FOREIGN = [
    (group, name)
    for group, module in ALL.items()
    for name, value in vars(module).items()
    if callable(value) and not value.__module__.startswith("depthlab.")
]


@pytest.mark.parametrize(("group", "name"), [*FOREIGN, *((group, "os.system") for group in ALL)])
def test_what_a_module_imports_is_no_option(group, name):
    with pytest.raises(Mistake, match=rf"^{group}={name}: "):
        config.bind(ALL[group], {"name": name}, group)


def test_there_is_something_to_refuse():
    assert {("init", "partial"), ("norm", "Tensor")} & {*FOREIGN}
    assert len(FOREIGN) > 5


TYPED = [
    "skip.name=os.system",
    "skip.name=__import__",
    "skip.name=__builtins__",
    "init.name=Tensor",
    "network.name=builtins.exec",
    "data.name=subprocess.Popen",
    "recipe.schedule.name=eval",
    "recipe.optimizer.name=KFAC",
    '+skip._target_=os.system;+skip._args_=["touch marker"]',
    "+skip._target_=pathlib.Path.touch;+skip.self=marker",
    "+data._target_=os.system",
    "+recipe._target_=os.system",
    "+recipe.schedule._target_=os.system",
    '+_target_=os.system;+_args_=["touch marker"]',
    "+probe.gradients._target_=os.system",
    "probe=gradients;+probe.gradients._target_=os.system",
    "skip={name:identity,_target_:os.system}",
]


@pytest.mark.parametrize("typed", TYPED)
def test_no_name_on_the_command_line_runs(command, tmp_path, typed):
    outcome = command(*typed.split(";"), *SHORT)
    assert (outcome.code, outcome.err.count("\n"), outcome.out) == (2, 1, "")
    assert outcome.err.startswith("error: ")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch marker']",
        "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [marker]]",
        "!!python/object/new:os.system ['touch marker']",
        "!!python/name:os.system",
        "!!python/module:os",
    ],
)
def test_no_tag_of_a_stored_config_runs(command, value):
    assert command(*SHORT).code == 0
    (run,) = Path("outputs/digits").iterdir()
    summary = (run / "summary.json").read_bytes()
    (run / "summary.json").unlink()
    stored = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(f"{stored}evil: {value}\n")
    outcome = command(*SHORT)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "config.yaml: damaged; move the directory away" in outcome.err
    (run / "summary.json").write_bytes(summary)
    results, _, broken = load(run.parent)
    assert (len(results), len(broken)) == (0, 1)
    assert not Path("marker").exists()


class Evil:
    """A pickle that writes a file when it is read."""

    def __reduce__(self):
        return os.system, ("touch marker",)


@pytest.mark.parametrize("write", [torch.save, lambda evil, path: path.write_bytes(pickle.dumps(evil))])
@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint-previous.pt"])
def test_no_checkpoint_runs(command, write, name):
    assert command(*SHORT).code == 0
    (run,) = Path("outputs/digits").iterdir()
    (run / "summary.json").unlink()
    (run / "checkpoint.pt").unlink()
    write({"net": Evil()}, run / name)
    outcome = command(*SHORT)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert f"{name}: damaged" in outcome.err
    assert "pickle protocol" not in outcome.err  # a warning of torch, which would be a second line
    assert not Path("marker").exists()
    torch.load(run / name, weights_only=False) if write is torch.save else pickle.loads((run / name).read_bytes())
    assert Path("marker").exists()  # so it would have run


@pytest.mark.parametrize("text", ["[" * 100_000, "3", "[]", "{}", "null", '{"status": "fin'])
def test_a_summary_of_another_kind_is_one_line(command, text):
    assert command(*SHORT).code == 0
    (run,) = Path("outputs/digits").iterdir()
    (run / "summary.json").write_text(text)
    outcome = command(*SHORT)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "summary.json: damaged; delete it to finish the run from its checkpoint" in outcome.err


def test_a_changed_number_in_a_finished_run_is_found(command):
    assert command(*SHORT).code == 0
    (run,) = Path("outputs/digits").iterdir()
    summary, metrics = ((run / name).read_text() for name in ("summary.json", "metrics.jsonl"))
    error = json.loads(summary)["final"]["test_error"]
    assert error > 50
    (run / "metrics.jsonl").write_text(metrics.replace(f'"test_error": {error}', '"test_error": 5.0'))
    results, _, (broken,) = load(run.parent)
    assert results == []
    assert "metrics.jsonl: damaged; delete summary.json to restore it from the checkpoint" in broken
    (run / "summary.json").unlink()
    assert command(*SHORT).code == 0
    assert (run / "metrics.jsonl").read_text() == metrics
    (run / "summary.json").write_text(summary.replace(str(error), "5.0"))
    outcome = command(*SHORT)
    assert (outcome.code, "summary.json: damaged" in outcome.err) == (2, True)
