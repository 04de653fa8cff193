"""What strangers type: understood where it has one meaning, else refused in one line of plain words."""

import shlex
from pathlib import Path

import pytest
import yaml

from depthlab.command.words import over, readable
from depthlab.errors import Mistake

SHORT = ("data=digits", "depth=8", "width=4", "recipe.iterations=1", "seed=0")
HYDRAS = ("full_key", "object_type", "struct", "ConfigAttribute", "Traceback", "hydra.errors", "MissingConfig")


def runs(folder="outputs"):
    return [yaml.safe_load(path.read_text()) for path in sorted(Path(folder).rglob("config.yaml"))]


def test_a_key_belongs_to_the_swept_options(command):
    assert command("-m", "skip=scaled,scaled_both", "skip.scale=0.3", *SHORT).code == 0
    assert [run["skip"]["scale"] for run in runs()] == [0.3, 0.3]


def test_a_key_that_some_of_the_swept_options_do_not_have_is_refused(command):
    outcome = command("-m", "norm=batch,group", "norm.groups=2", *SHORT)
    assert outcome.code == 2
    assert outcome.err == "error: norm.groups: norm=batch has no such option; norm=group has it\n"
    assert runs() == []


@pytest.mark.parametrize(("name", "key", "value"), [("lambda", "scale", 0.6), ("shortcut_types", "bias", -4.0)])
def test_in_an_experiment_a_key_goes_to_the_options_that_have_it(command, name, key, value):
    assert command(f"experiment={name}", f"skip.{key}={value}", *SHORT).code == 0
    assert {run["skip"][key] for run in runs() if key in run["skip"]} == {value}


@pytest.mark.parametrize("key", ["output_dir", "data.root", "data.source", "weights"])
def test_a_home_folder_is_meant(key, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for typed in (f"{key}=~/there", f"{key}='~/there'"):
        assert "/home/me/there" in readable([typed])[0]


@pytest.mark.parametrize("folder", ["a=b", "a,b", "runs (new)", "my runs", "it's", "$HOME", "ä ö"])
def test_a_folder_of_any_name_and_commands_that_can_be_copied(command, folder):
    outcome = command(*SHORT, f"output_dir={folder}")
    assert (outcome.code, outcome.err) == (0, "")
    assert len(runs(folder)) == 1
    (said,) = (line for line in outcome.out.splitlines() if line.startswith("tensorboard --logdir "))
    assert shlex.split(said) == ["tensorboard", "--logdir", folder]


def test_a_home_folder_is_meant_behind_an_equals_sign_too(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert readable(["--config-dir=~/mine"]) == ["--config-dir=/home/me/mine"]


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": "2"}, {"RANK": "0"}, {"WORLD_SIZE": "two", "RANK": "0"}])
def test_what_a_launcher_left_in_the_environment_is_not_a_launcher(command, monkeypatch, environment):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert command(*SHORT).code == 0


@pytest.mark.parametrize("word", ["skip.name=none", "++norm.name=group", "data.name=digits"])
def test_an_option_is_not_chosen_by_its_inner_name(command, word):
    """Else the run would be recorded as one of the option that is usual."""
    outcome = command(*SHORT, word)
    key, value = word.lstrip("+").split(".name=")
    assert (outcome.code, outcome.err) == (2, f"error: {word}: an option is chosen by its group: {key}={value}\n")


@pytest.mark.parametrize(
    "flags", [("--resolve",), ("-sc",), ("-cn", "other"), ("-cp", "there"), ("-sc", "query=bash"), ("-p", "skip")]
)
def test_a_flag_that_says_nothing_alone(command, flags):
    outcome = command(*flags)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert flags[0] in outcome.err.split(": ")[1]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("output_dir=1e3", 'output_dir="1e3"'),
        ("output_dir=2026_11_30", 'output_dir="2026_11_30"'),
        ("output_dir=0.10", 'output_dir="0.10"'),
        ("recipe.iterations=64e3", "recipe.iterations=64000"),
        ("recipe.iterations=1e3", "recipe.iterations=1000"),
        ("depth=20.0", "depth=20"),
        ("depth=20.0,56", "depth=20,56"),
        ("recipe.rate=1e3", "recipe.rate=1e3"),
        ("depth=20.5", "depth=20.5"),
    ],
)
def test_a_whole_number_is_meant(typed, meant):
    assert readable([typed]) == [meant]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "skip=[none,identity]"], "an option of a group is chosen by its name"),
        (["~skip"], "nothing is taken away"),
        (["-m", "recipe.rate=0.1,choice(0.2,0.3)"], "a sweep inside a sweep"),
        (["depth=interval(1,2)"], "an interval is no list of values"),
        (["config=outputs/*/config.yaml"], "no such file"),
        (["depth"], "depth: not of the form option=value"),
        (["+skip.scale"], "not of the form option=value"),
        (["skip=null"], "skip=null: did you mean none? (allowed: "),
        (["recipe/schedule=null"], "recipe/schedule=null: (allowed: "),
        (["-m", "norm=batch,null"], "norm=null: "),
        (["-m", "output_dir=a,b"], "output_dir, folder: one run in two folders; a command each"),
        (["-m", "folder=a,b"], "output_dir, folder: one run in two folders; a command each"),
        (["depth=null"], "depth=null: a value is needed"),
        (["recipe=5"], "an option of a group is chosen by its name"),
        (["data.root.x=1"], "data.root"),
        (["recipe.schedule=step"], "recipe"),
        (["+probe.nothing.every=1"], "probe"),
        (["norm@there=batch"], "norm@there"),
        (["-m", "hydra.sweeper.params=5", "seed=0,1"], "hydra.sweeper.params=5"),
        (["-m", "hydra.sweeper.max_batch_size=x", "seed=0,1"], "max_batch_size=x: a whole number from 1 on"),
        (["-m", "hydra.launcher.n_jobs=two", "seed=0,1"], "n_jobs=two: how many runs at once"),
        (["-m", "hydra.launcher.n_jobs=0", "seed=0,1"], "n_jobs=0: how many runs at once"),
        (["recipe.iterations=64,000"], "one number is written recipe.iterations=64000; several are a sweep"),
        (["data=range(1,3)", "experiment=degradation"], "an experiment needs their names"),
        (["-m", "probe=[gradients],[]"], "several in one run: 'probe=[A,B]'"),
        (["depth=???"], "depth=???: a value is missing"),
        (["skip=none,"], "skip=none,: a value is missing"),
        (["-m", "skip=none,,identity"], "a value is missing"),
        (["output_dir="], "output_dir=: expected a file or folder"),
        (["output_dir=~nobody_here/runs"], "~nobody_here is nobody's home"),
        (["optimizer=adamw"], "did you mean recipe/optimizer?"),
        (["--experimental-rerun", "x"], "config=RUN/config.yaml makes a run again"),
        (["--experiment=degradation"], "options are typed without dashes"),
        (["--config=RUN/config.yaml"], "options are typed without dashes"),
        (["-m", "probe=[gradients],[activations]"], "several in one run: 'probe=[A,B]'"),
        (["depth=8", "depth=14"], "depth=8 depth=14: 2 values for one option; several runs are a sweep, depth=8,14"),
        (["-m", "seed=0", "seed=1", "seed=2"], "seed=0 seed=1 seed=2: 3 values for one option; several runs are"),
        (["-m", "++skip.scale=1", "skip.scale=0.5"], "skip.scale=1 skip.scale=0.5: 2 values"),
        (["probe=gradients", "probe=activations"], "2 values for one option; probe=[A,B]"),
        (["rerun=true", "rerun=false"], "rerun=true rerun=false: 2 values for one option\n"),
        (["epochs=00.5", "recipe.iterations=5"], "each says how long"),
        (["epochs=1", "recipe.iterations=5"], "epochs=1 recipe.iterations=5: each says how long; leave one out"),
        (["-m", "epochs=1,2", "recipe.iterations=5"], "epochs=1,2 recipe.iterations=5: each says how long"),
        (["skip=none.yaml"], "skip=none.yaml: did you mean none?"),
        (["-m", "skip=none,identity.yaml"], "skip=identity.yaml: did you mean identity?"),
        (["data=../data/digits"], "data=../data/digits: did you mean digits?"),
        (["probe=[gradients,configs/probe/lesion.yaml]"], "did you mean lesion?"),
        (["--config-dir", ".", "-cd", "."], "--config-dir: one folder"),
        (["skip=1"], "skip=1: an option of a group is chosen by its name"),
        (["weights={depth:8,epochs:1,recipe.iterations:5}", "depth=14"], "each says how long"),
        (["weights={depth:8,width:4,depth:20}", "depth=14"], "two values for depth"),
        (["weights={recipe:{rate:1,rate:2}}", "depth=14"], "two values for rate"),
        (["weights={depth:8,recipe:{rate:1},depth:20}", "depth=14"], "two values for depth"),
        (["recipe.schedule=null"], "recipe.schedule=null: (allowed: constant, "),
        (["data.normalize=true"], "data.normalize=true: (allowed: "),
        (["threads=true"], "threads=true: a whole number"),
        (["probe=null"], "probe=null: none is probe=[]"),
        (["norm=null"], "norm=null: did you mean none?"),
        (["-m", "threads=1,2"], "threads: no part of a run's name, so not to be swept; a command each"),
        (["experiment=degradation,lambda"], "experiment=degradation,lambda: one experiment a command"),
    ],
)
def test_hydras_inner_words_do_not_reach_a_person(command, words, said):
    outcome = command(*over(SHORT, *words))
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
    assert said in outcome.err
    assert not any(word in outcome.err for word in HYDRAS)
    assert runs() == []


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("depth=8 depth=8.0", "depth=8"),
        ("recipe.rate=0.1 recipe.rate=1e-1 seed=1", "recipe.rate=0.1 seed=1"),
        ("rerun=true depth=8 +rerun=True", "rerun=true depth=8"),
        ("epochs=0.0 recipe.iterations=5", "epochs=0.0 recipe.iterations=5"),
        ("epochs=1 recipe.iterations=Null", "epochs=1 recipe.iterations=Null"),
        ("experiment=NULL depth=8", "depth=8"),
    ],
)
def test_the_same_again_is_said_once(words, meant):
    assert readable(words.split()) == meant.split()


def test_an_option_of_ones_own_in_a_folder_of_a_group(command, tmp_path):
    (tmp_path / "own" / "skip" / "sub").mkdir(parents=True)
    (tmp_path / "own" / "skip" / "sub" / "half.yaml").write_text(
        "# @package skip\nname: scaled\nscale: 0.5\nbranch: 1\n"
    )
    outcome = command(*SHORT, "--config-dir=own", "skip=sub/half")
    assert (outcome.code, outcome.err) == (0, "")


def test_a_row_alone_has_a_name(command):
    said = command("-m", "data=digits", "depth=8", "width=4", "recipe.iterations=1", "seed=0,1").out
    assert "  depth=8 skip=identity norm=batch  2 finished" in said


def test_nothing_else_is_changed():
    words = ["-m", "depth=8,20", "skip=none", "recipe/schedule=cosine", "probe=[activations,gradients]", "++seed=3"]
    assert readable(words) == [*words[:-1], "seed=3"]
    with pytest.raises(Mistake, match="not of the form option=value"):
        readable(["depth=(8"])
    assert readable(["output_dir=plain/there"]) == ["output_dir=plain/there"]


def test_the_recipe_has_its_keys_whatever_the_data_set(command):
    assert command("-m", "recipe.rate=0.01,0.1", "recipe.warmup.share=0", *SHORT).code == 0
    assert [run["recipe"]["rate"] for run in runs()] in ([0.01, 0.1], [0.1, 0.01])
