"""What comes from elsewhere is read and never called: names on the command line, stored configs, checkpoints."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from conftest import Counted
from depthlab import config, probes
from depthlab.errors import Mistake
from depthlab.reports.collect import load
from depthlab.run.plan import MODULES
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


@pytest.mark.parametrize(("group", "name"), [*FOREIGN, *((group, "math.sqrt") for group in ALL)])
def test_what_a_module_imports_is_no_option(group, name):
    with pytest.raises(Mistake, match=rf"^{group}={name}: "):
        config.bind(ALL[group], {"name": name}, group)


def test_there_is_something_to_refuse():
    assert {("init", "partial"), ("norm", "Tensor")} & {*FOREIGN}
    assert len(FOREIGN) > 5


TYPED = [
    "skip.name=math.sqrt",
    "skip.name=__doc__",
    "skip.name=__builtins__",
    "init.name=Tensor",
    "network.name=builtins.abs",
    "data.name=math.floor",
    "recipe.schedule.name=abs",
    "recipe.optimizer.name=KFAC",
    "+skip._target_=math.sqrt;+skip._args_=[4]",
    "+skip._target_=fractions.Fraction;+skip.numerator=1",
    "+data._target_=math.sqrt",
    "+recipe._target_=math.sqrt",
    "+recipe.schedule._target_=math.sqrt",
    "+_target_=math.sqrt;+_args_=[4]",
    "+probe.gradients._target_=math.sqrt",
    "probe=gradients;+probe.gradients._target_=math.sqrt",
    "skip={name:identity,_target_:math.sqrt}",
]


@pytest.mark.parametrize("typed", TYPED)
def test_no_name_on_the_command_line_is_called(command, tmp_path, typed):
    outcome = command(*typed.split(";"), *SHORT)
    assert (outcome.code, outcome.err.count("\n"), outcome.out) == (2, 1, "")
    assert outcome.err.startswith("error: ")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:math.sqrt [4]",
        "!!python/object/new:fractions.Fraction [1]",
        "!!python/name:math.pi",
        "!!python/module:math",
    ],
)
def test_no_tag_of_a_stored_config_is_followed(command, value):
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


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint-previous.pt"])
def test_no_object_in_a_checkpoint_is_made(command, write, name):
    assert command(*SHORT).code == 0
    (run,) = Path("outputs/digits").iterdir()
    (run / "summary.json").unlink()
    (run / "checkpoint.pt").unlink()
    Counted.made = 0
    write({"net": Counted()}, run / name)
    outcome = command(*SHORT)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert f"{name}: damaged" in outcome.err
    assert "pickle protocol" not in outcome.err  # a warning of torch, which would be a second line
    assert Counted.made == 1  # by the line that wrote it


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
