"""The one rule against every YAML, what it refuses, and the names of runs."""

import inspect
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from omegaconf import OmegaConf

from conftest import ROOT, presets
from depthlab import config
from depthlab.command.compose import compose
from depthlab.command.words import over
from depthlab.errors import Mistake
from depthlab.run.plan import MODULES as PARTS
from depthlab.run.plan import plan as checked
from depthlab.training import optimizer, schedule

CONFIGS = ROOT / "configs"
MODULES = PARTS | {"recipe/schedule": schedule, "recipe/optimizer": optimizer}
FILES = [path for group in MODULES for path in sorted((CONFIGS / group).glob("*.yaml"))]

# A group's module: options between what is none of its options.
SOURCE = """
import os
from enum import Enum
from os import getcwd
from typing import Literal
import torch
from torch import Tensor, nn

RATE = 0.1

def scaled(channels, *, scale: float, count: int = 1, flag: bool = False):
    return channels, scale, count, flag

def kinds(channels, *, kind: Literal["a", "b"], shares: list[float], most: int | None, text: str):
    return kind, shares, most, text

def bare(channels):
    return channels

def _private(channels):
    return channels

class Upper:
    pass
"""


def made(name, source=SOURCE):
    module = ModuleType(name)
    exec(source, module.__dict__)
    return module


TOY = made("toy")
SCALED = {"name": "scaled", "scale": 0.5, "count": 1, "flag": False}
KINDS = {"name": "kinds", "kind": "a", "shares": [0.5], "most": None, "text": "x"}


@pytest.fixture(scope="module")
def plan():
    """`plan("depth=20")` is the checked plan of `python train.py depth=20`."""

    @cache
    def plan(*overrides):
        return checked(*compose(overrides))

    return plan


# The one rule


def test_a_node_binds_what_stands_after_the_star():
    option = config.bind(TOY, SCALED | {"scale": 0.25, "flag": True}, "toy")
    assert option(16) == (16, 0.25, 1, True)
    assert config.bind(TOY, KINDS, "toy")(16) == ("a", [0.5], None, "x")
    assert config.bind(TOY, "bare", "toy")(3) == config.bind(TOY, {"name": "bare"}, "toy")(3) == 3


def test_the_node_itself_is_left_alone():
    node = {"name": "scaled", "scale": 1, "count": 1, "flag": False}
    config.bind(TOY, node, "toy")
    assert node == {"name": "scaled", "scale": 1, "count": 1, "flag": False}


@pytest.mark.parametrize(
    ("base", "key", "given", "wanted"),
    [
        (SCALED, "scale", 1, 1.0),
        (SCALED, "scale", "2.5", 2.5),
        (SCALED, "scale", "1e-3", 0.001),
        (SCALED, "count", "3", 3),
        (SCALED, "flag", "true", True),
        (KINDS, "shares", [1, 0], [1.0, 0.0]),
        (KINDS, "most", 5, 5),
        (KINDS, "most", None, None),
        (KINDS, "text", 3, "3"),
        (KINDS, "kind", "b", "b"),
    ],
)
def test_values_become_what_the_annotation_says(base, key, given, wanted):
    bound = config.bind(TOY, base | {key: given}, "toy").keywords[key]
    assert bound == wanted
    assert repr(bound) == repr(wanted)  # 1 == 1.0 == True


MISTAKES = [
    ({"name": "scale"}, "toy=scale: did you mean scaled? (allowed: scaled, kinds, bare)"),
    ({"name": None}, "toy=null: (allowed: scaled, kinds, bare)"),
    ({}, "toy=null: (allowed: scaled, kinds, bare)"),
    (3, "toy=3: (allowed: scaled, kinds, bare)"),
    (None, "toy=null: (allowed: scaled, kinds, bare)"),
    (SCALED | {"scal": 1}, "toy.scal=1: no such option; did you mean scale? (allowed: scale, count, flag)"),
    (SCALED | {"channels": 1}, "toy.channels=1: no such option; (allowed: scale, count, flag)"),
    ({"name": "bare", "scale": 1}, "toy.scale=1: no such option; toy=bare takes none"),
    ({"name": "scaled", "count": 1, "flag": True}, "toy.scale: toy=scaled needs a value for it"),
    (
        {"name": "scaled", "scale": 1, "flag": True},
        "toy.count: toy=scaled needs a value for it",
    ),  # no silent defaults
    (SCALED | {"scale": "x"}, "toy.scale=x: a number"),
    (SCALED | {"scale": None}, "toy.scale=null: a value is needed"),
    (SCALED | {"scale": float("nan")}, "toy.scale=nan: a finite number"),
    (SCALED | {"scale": float("-inf")}, "toy.scale=-inf: a finite number"),
    (SCALED | {"scale": [1]}, None),
    (SCALED | {"count": 1.5}, "toy.count=1.5: a whole number"),
    (SCALED | {"flag": "maybe"}, "toy.flag=maybe: true or false"),
    (SCALED | {"scale": {"a": 1}}, None),
    (KINDS | {"kind": "c"}, "toy.kind=c: (allowed: a, b)"),
    (KINDS | {"kind": ["a"]}, "toy.kind=['a']: (allowed: a, b)"),
    (KINDS | {"shares": 0.5}, None),
    (KINDS | {"shares": ["x"]}, None),
    (KINDS | {"most": "many"}, "toy.most=many: a whole number"),
]


@pytest.mark.parametrize(("node", "line"), MISTAKES)
def test_a_wrong_node_is_one_line(node, line):
    with pytest.raises(Mistake) as mistake:
        config.bind(TOY, node, "toy")
    text = str(mistake.value)
    assert "\n" not in text
    assert text.startswith("toy")
    if line is not None:
        assert text == line


OUTSIDE = ("nn", "Tensor", "os", "os.getcwd", "getcwd", "torch", "Enum", "Literal", "RATE", "Upper", "_private")
DUNDER = ("__builtins__", "__import__", "__name__", "__class__", "__dict__", "eval", "exec", "Mistake", "partial")


@pytest.mark.parametrize("name", OUTSIDE + DUNDER)
def test_nothing_but_the_modules_own_options_can_be_named(name):
    with pytest.raises(Mistake, match=rf"^toy={re.escape(name)}: "):
        config.bind(TOY, {"name": name}, "toy")


@pytest.mark.parametrize("group", MODULES)
def test_what_can_be_named_is_what_the_yaml_files_name(group):
    """Helpers out of reach, and no option without its file."""
    module = MODULES[group]
    named = {node(path)["name"] for path in FILES if path.parent == CONFIGS / group}
    reachable = set()
    for name in {*dir(module), *OUTSIDE, *DUNDER}:
        try:
            config.bind(module, {"name": name}, group)
        except Mistake as mistake:
            if not str(mistake).startswith(f"{group}={name}:"):
                reachable.add(name)  # only its keys are missing
        else:
            reachable.add(name)
    assert reachable == named


def test_a_module_may_name_its_options():
    module = made("more", "__all__ = ['kept']\ndef kept(x): pass\ndef helper(x): pass\n")
    config.bind(module, "kept", "more")
    with pytest.raises(Mistake, match=r"allowed: kept\)"):
        config.bind(module, "helper", "more")


# The YAML files


def node(path):
    """A group's file as the command would read it."""
    if path.parent.name == "data":  # these are of the whole config, and some begin with another one
        return OmegaConf.to_container(compose([f"data={path.stem}"]).cfg.data)
    values = presets(str(path.parent.relative_to(CONFIGS)))[path.stem]
    return values.get("optimizer", values)  # some bring a rate, too


def identifier(path):
    return str(path.relative_to(CONFIGS).with_suffix(""))


@pytest.mark.parametrize("path", FILES, ids=identifier)
def test_each_file_binds_and_its_keys_are_those_after_the_star(path):
    module, values = MODULES[str(path.parent.relative_to(CONFIGS))], node(path)
    bound = config.bind(module, values, path.parent.name)
    keys = inspect.getfullargspec(getattr(module, values.pop("name"))).kwonlyargs
    assert list(values) == keys
    assert bound.keywords.keys() == set(keys)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=identifier)
def test_each_file_begins_with_a_comment_that_says_what_it_is(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert re.match(r"# \S.{8,}", lines[0])


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=identifier)
def test_no_file_says_no_or_off(path):
    """YAML reads them as false."""
    assert not re.search(r": *(no|off|on|yes|No|Off|On|Yes) *(#|$)", path.read_text(), re.MULTILINE)


def test_every_group_of_the_command_has_a_module_and_a_folder():
    assert {*config.GROUPS} == {*PARTS, "recipe", "experiment", "probe"}
    folders = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    assert {*config.GROUPS} <= folders


# The names of runs


# Whoever changes one of these renames, and so orphans, every run that anybody has made with these settings: the same
# command would train again what is already there. A new field leaves them as they are if its value that does nothing
# is null or false. Change them only with that in mind, and say so in the change log.
PINNED = {
    ("depth=110", "skip=none"): "plain110-batch-s0-3d3e313f",
    ("data=digits",): "resnet20-identity-batch-s0-2b7a2608",
    (
        "data=cifar100",
        "skip=scaled",
        "unit=preact",
        "norm=group",
        "init=orthogonal",
        "recipe=he2016",
        "seed=3",
    ): "resnet20-scaled_0.5_1-group_4-preact-orthogonal-s3-0f567047",
}


@pytest.mark.parametrize("typed", PINNED, ids=" ".join)
def test_known_configs_keep_their_names(plan, typed):
    assert plan(*typed).run.path.name == PINNED[typed]


BASE = ("data=digits", "skip=scaled", "norm=group", "recipe=he2015", "depth=14", "block=basic", "epochs=3")
BASE += ("data.subset=100", "init.gain=2", "data.validation=3", "width=16")

# What differs from BASE for each field that decides a result.
OTHER = {
    "depth": "20",
    "width": "8",
    "block": "single",
    "seed": "1",
    "epochs": "2",
    "weights": f"{ROOT}/train.py",  # read when the run starts
    "options": None,  # tests/test_own.py
    "precision": "bf16",
    "evaluate_train": "true",
    "network.name": None,  # one option cannot have another's keys: see the next test
    "network.family": None,
    "network.shortcut": "B",
    "network.stride_in": "3x3",
    "skip.name": None,
    "skip.scale": "0.6",
    "skip.branch": "0.5",
    "unit.name": None,
    "norm.name": None,
    "norm.groups": "8",
    "init.name": None,
    "init.fan": "fan_out",
    "init.distribution": "uniform",
    "init.gain": "3",
    "init.zero_last": "true",
    "activation.name": None,
    "weight.name": None,
    "data.name": None,
    "data.augment": "true",
    "data.normalize": "none",
    "data.validation": "4",
    "data.subset": "99",
    "recipe.batch": "32",
    "recipe.iterations": "63999 epochs=null",
    "recipe.rate": "0.1000001",
    "recipe.momentum": "0",
    "recipe.nesterov": "true",
    "recipe.decay": "2e-4",
    "recipe.decay_on": "weights",
    "recipe.schedule_on": "weights",
    "recipe.warmup.rate": "0.02",
    "recipe.warmup.until_error": "0",
    "recipe.warmup.share": "0",
    "recipe.warmup.from_depth": "0",
    "recipe.schedule.name": None,
    "recipe.schedule.drops": "[0.5]",
    "recipe.schedule.factor": "0.2",
    "recipe.optimizer.name": None,
}
UNSCIENTIFIC = {
    "device": "cpu",
    "devices": "2",
    "threads": "2",
    "recompute": "true",
    "compile": "true",
    "graph": "true",
    "order": "cheapest",
    "checkpoint_every": "1",
    "rerun": "true",
    "output_dir": "elsewhere",
    "folder": "elsewhere",
    "probe": "[activations,gradients]",
}


def flat(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_the_two_lists_below_are_all_fields_there_are(plan):
    assert {*flat(plan(*BASE).config), "probe"} == {*OTHER, *UNSCIENTIFIC}


@pytest.mark.parametrize("key", [key for key, value in OTHER.items() if value is not None])
def test_a_field_that_decides_the_result_changes_the_name(plan, key):
    assert plan(*over(BASE, *f"{key}={OTHER[key]}".split())).run.path.name != plan(*BASE).run.path.name


def test_a_name_of_an_option_changes_the_name(plan):
    names = {"network": "mlp", "skip": "none", "norm": "none", "init": "xavier", "recipe/schedule": "constant"}
    names |= {"unit": "preact", "activation": "tanh"}
    runs = [plan("data=digits", "depth=14").run.path.name]
    runs += [plan("data=digits", "depth=14", f"{group}={name}").run.path.name for group, name in names.items()]
    runs += [plan("data=synthetic", "depth=14").run.path.name]
    assert len({*runs}) == len(runs)


@pytest.mark.parametrize("key", UNSCIENTIFIC)
def test_where_and_how_a_run_is_computed_does_not_change_its_name(plan, key):
    assert plan(*BASE, f"{key}={UNSCIENTIFIC[key]}").run.path.name == plan(*BASE).run.path.name


@pytest.mark.parametrize("typed", ["data=cifar10 data.root=x", "data=cifar10 data.source=npm"])
def test_nor_does_where_the_data_lie(plan, typed):
    assert plan(*typed.split()).run.path.name == plan("data=cifar10").run.path.name


def test_nor_do_the_processes_that_read_them(plan):
    names = {plan("data=imagenet", "data.root=a", f"data.workers={n}").run.path.name for n in (1, 2)}
    assert len(names) == 1


def test_a_folder_of_images_is_another_data_set_unless_its_bytes_are_checked(plan):
    assert plan("data=imagenet", "data.root=a").run.path != plan("data=imagenet", "data.root=b").run.path
    assert plan("data=cifar10", "data.root=a").run.path == plan("data=cifar10", "data.root=b").run.path


def test_what_does_nothing_does_not_rename(plan):
    assert plan("block=basic").run.path == plan().run.path
    assert plan("epochs=3").config["recipe"]["iterations"] is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("skip=scaled skip.scale=1", "skip=scaled skip.scale=1.0"),
        ("skip=scaled skip.scale=0.5", "skip=scaled skip.scale=5e-1"),
        ("recipe.rate=1", "recipe.rate=1.0"),
        ("recipe.warmup.share=0", "recipe.warmup.share=0.0"),
        ("recipe.warmup.until_error=80", "recipe.warmup.until_error=80.0"),
        ("epochs=2", "epochs=2.0"),
        ("depth=14 skip=none weights={depth:8}", "depth=14 skip=none weights={depth:8.0}"),
        (
            "depth=14 skip=none weights={depth:8,recipe.rate:1}",
            "depth=14 skip=none weights={recipe.rate:1.0,depth:8}",
        ),
        ("depth=8", "depth=8 experiment=null"),
        ("recipe/schedule=step recipe.schedule.drops=[0,1]", "recipe/schedule=step recipe.schedule.drops=[0.0,1.0]"),
        ("recipe/schedule=one_cycle recipe.schedule.start=25", "recipe/schedule=one_cycle"),
        ("init.gain=2", "init.gain=2.0"),
        ("skip=scaled skip.branch=0.5", "skip=scaled_both"),
        ("skip=scaled_both skip.branch=1", "skip=scaled"),
        ("init=kaiming init.zero_last=true", "init=kaiming_zero_last"),
        ("init=kaiming init.fan=fan_out", "init=kaiming_fan_out"),
        ("norm=renorm norm.start=50 norm.r_steps=400 norm.d_steps=250 norm.momentum=0.1", "norm=renorm_short"),
        ("recipe=he2015 recipe.warmup.until_error=0 recipe.warmup.from_depth=0", "recipe=he2016"),
        ("seed=1 depth=14", "depth=14 seed=1"),
        ("block=null", "epochs=null"),
    ],
)
def test_two_spellings_of_one_run_have_one_name(plan, one, other):
    assert plan("data=digits", *one.split()).run.path == plan("data=digits", *other.split()).run.path


def test_the_name_says_what_is_unusual(plan):
    typed = ("data=digits", "depth=14", "skip=scaled", "norm=ghost", "unit=preact", "init=normal", "activation=tanh")
    name = plan(*typed, "seed=7").run.path.name
    assert re.fullmatch(r"resnet14-scaled_0\.5_1-ghost_16-preact-normal_0\.01-tanh-s7-[0-9a-f]{8}", name)


def test_a_dense_network_has_its_growth_and_compression_in_its_name(plan):
    name = plan("data=digits", "network=densenet_bc", "depth=16", "network.growth=4").run.path.name
    assert re.fullmatch(r"densenet16_4_0\.5-bottleneck-concat-batch-preact-s0-[0-9a-f]{8}", name)
    plain = plan("data=digits", "network=densenet", "depth=13", "skip=none", "unit=original").run.path.name
    assert plain.startswith("densenet13_12_1-single-none-batch-s0-")


def test_null_and_false_are_left_out_of_what_decides_so_that_a_new_field_renames_nothing():
    old = {"depth": 20, "skip": {"name": "scaled", "scale": 0.0}, "seed": 0}
    new = old | {"new": None, "skip": {**old["skip"], "also": False, "more": {"deep": None}}}
    assert (
        config.identity(old)
        == config.identity(new)
        == {"depth": 20, "skip.name": "scaled", "skip.scale": 0.0, "seed": 0}
    )
    assert config.digest(old) == config.digest(new)
    assert config.digest(old) != config.digest(old | {"new": 0})
    assert config.digest(old) != config.digest(old | {"new": True})


def test_the_order_of_the_keys_does_not_matter():
    one = {"a": 1, "b": {"c": 2.0, "d": "x"}}
    assert config.digest(one) == config.digest({"b": {"d": "x", "c": 2.0}, "a": 1})
    assert re.fullmatch("[0-9a-f]{8}", config.digest(one))


# What can be typed


def test_the_keys_are_those_of_the_yaml():
    surface, typed = yaml.safe_load((CONFIGS / "train.yaml").read_text()), config.keys()
    scalars = {*surface} - {"defaults", "hydra"}
    assert scalars | {*config.GROUPS} == {key for key in typed if "." not in key}
    recipe = yaml.safe_load((CONFIGS / "recipe" / "he2015.yaml").read_text())
    wanted = {f"recipe.{key}" for key in recipe if key != "defaults"}
    wanted |= {"recipe.schedule", "recipe.optimizer"}
    wanted |= {f"recipe.warmup.{key}" for key in recipe["warmup"]}
    assert {key for key in typed if "." in key} == wanted


def test_help_says_each_scalar():
    text = config.help_text()
    for key in yaml.safe_load((CONFIGS / "train.yaml").read_text()).keys() - {"defaults", "hydra"}:
        assert re.search(rf"^{key}=\S+ +\S", text, re.MULTILINE)


def test_help_says_what_an_optimizer_takes():
    line = next(line for line in config.help_text().splitlines() if "recipe.optimizer.damping=" in line)
    assert line.split() == [
        *("recipe.rate=0.1,", "recipe.optimizer.damping=0.01,", "recipe.optimizer.average=0.95,"),
        *("recipe.optimizer.every=5,", "recipe.optimizer.clip=0.001"),
    ]
    assert config.owners("recipe.optimizer.rate") == []
    assert config.owners("recipe.optimizer.clip") == ["recipe/optimizer=kfac"]


def test_the_python_s_schema_has_no_values():
    """Values live in the YAML files alone."""
    assert all(value == "???" for value in OmegaConf.to_container(OmegaConf.structured(config.Config)).values())
    assert Path(config.__file__).name == "config.py"
