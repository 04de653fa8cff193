"""The command line's surface: typed roots without values (those live in configs/), and the one rule that binds them.

A group is a module, an option names a function or class in it, a key is one of its keyword-only arguments.
"""

import hashlib
import inspect
import json
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, make_dataclass
from enum import Enum
from functools import cache, partial
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import hydra
import omegaconf
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ValidationError

from depthlab.errors import Mistake, hint, installed, not_yaml, one_of, wrong_value
from depthlab.training.recipe import Recipe, Warmup

HERE = Path(__file__).resolve().parent
CONFIGS = next(folder for folder in (HERE / "configs", HERE.parents[1] / "configs") if folder.is_dir())
"""The YAML files: in the package where it is installed, beside src/ in a clone."""
FOLDERS = [CONFIGS]
"""Where YAML files are looked for: ours, then those of --config-dir."""
OWN: dict[str, dict[str, str]] = {}
"""What `options=FOLDER` adds: by group and name, the text of an option's YAML file."""
GROUPS = ("experiment", "network", "skip", "unit", "norm", "init", "activation", "weight", "data", "recipe", "probe")
OPTIONS = (*GROUPS, "recipe/schedule", "recipe/optimizer")
PACKAGES = {"experiment": "_global_", "data": "_global_", "probe": "probe.{}"}
"""The groups whose YAML files say in a first line where their keys belong."""

VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}
"""What Hydra 1.3 wants to be told, and 1.4 not."""

# OmegaConf 2.3 and Hydra, too, read YAML by libyaml, as 2.4 does by itself: a config in four fifths of the time.
if yaml.__with_libyaml__ and hasattr(omegaconf._utils, "get_yaml_loader"):
    _Loader = type("_Loader", (yaml.CSafeLoader, omegaconf._utils.get_yaml_loader()), {})
    omegaconf._utils.get_yaml_loader = lambda: _Loader

# What may differ between two runs of one result: where and how it is computed, not what.
UNSCIENTIFIC = {
    *("device", "devices", "threads", "recompute", "compile", "graph", "checkpoint_every", "rerun", "order"),
    *("output_dir", "folder", "probe"),
    *("data.source", "data.workers", "weights.file"),
}
# The papers' choices, which a run's name leaves out.
USUAL = {"unit": "original", "init": "kaiming", "activation": "relu", "weight": "plain"}
# Groups that came later, and the option that does what was done before, which renames no old run.
LATER = {"weight.name": "plain", "recipe.optimizer.name": "sgd"}

Block = Enum("Block", ["basic", "bottleneck", "single"])
Device = Enum("Device", ["auto", "cpu", "cuda"])
Precision = Enum("Precision", ["fp32", "tf32", "bf16", "fp64"])
Order = Enum("Order", ["typed", "cheapest"])


@dataclass
class Config:
    """All that `python train.py` takes; configs/train.yaml says what each means."""

    depth: int = MISSING
    width: int = MISSING
    block: Block | None = MISSING
    seed: int = MISSING
    epochs: float | None = MISSING
    weights: Any = MISSING
    options: str | None = MISSING
    device: Device = MISSING
    devices: int = MISSING
    precision: Precision = MISSING
    threads: int | None = MISSING
    recompute: bool = MISSING
    compile: bool = MISSING
    graph: bool = MISSING
    evaluate_train: bool = MISSING
    checkpoint_every: float = MISSING
    rerun: bool = MISSING
    order: Order = MISSING
    output_dir: str = MISSING
    folder: str | None = MISSING
    network: Any = MISSING
    skip: Any = MISSING
    unit: Any = MISSING
    norm: Any = MISSING
    init: Any = MISSING
    activation: Any = MISSING
    weight: Any = MISSING
    data: Any = MISSING
    recipe: Recipe = MISSING
    probe: Any = MISSING
    experiment: Any = MISSING


ConfigStore.instance().store("schema", Config)


def bind(module: ModuleType, node: Any, group: str) -> partial[Any]:
    """The option that `node.name` names in `module`, its keyword-only arguments filled from the node's other keys.

    Values are checked against the annotations. Raises Mistake, in one line that begins with `group`, on an unknown
    option or key, a missing one, or a value of a wrong type.
    """
    values, name, options = dict(node) if isinstance(node, dict) else {}, named(node), public(module)
    values.pop("name", None)
    if name not in options:
        raise one_of(group, name, options)
    option = options[name]
    parameters = inspect.signature(option, eval_str=True).parameters.values()
    keys = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    for key in values.keys() - keys.keys():
        allowed = hint(key, keys) if keys else f"{group}={name} takes none"
        raise Mistake(f"{group}.{key}={values[key]}: no such option; {allowed}")
    if not isinstance(node, dict) and keys:
        raise Mistake(f"{group}={node}: write {group.replace('.', '/')}={node}, which brings its values")
    for key in keys.keys() - values.keys():
        raise Mistake(f"{group}.{key}: {group}={name} needs a value for it")
    for key, parameter in keys.items():
        annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
        values[key] = typed(f"{group}.{key}", values[key], annotation)
    return partial(option, **values)


def named(node: Any) -> str:
    """The option that a group's node names."""
    return str(node.get("name") if isinstance(node, dict) else node)


def public(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The options in a module by their names: its own functions and classes that begin with a small letter."""
    return {name: f for name, f in vars(module).items() if callable(f) and _public(module, name, f)}


def _public(module: ModuleType, name: str, option: Any) -> bool:
    inside = (getattr(option, "__module__", None) or "").startswith(module.__name__)  # torch.compile adds some
    return inside and name in getattr(module, "__all__", [name]) and name[0].islower()


def typed(option: str, value: Any, annotation: Any) -> Any:
    """A value of the annotated kind, made from the given one as OmegaConf does; Mistake if it cannot be."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else [annotation]
    literals = [name for kind in kinds if get_origin(kind) is Literal for name in get_args(kind)]
    if literals:
        if value not in literals and not (value is None and NoneType in kinds):
            raise one_of(option, value, literals)
        return value
    if int in kinds and float not in kinds and isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e3
    try:
        value = OmegaConf.merge(_schema(annotation), {"value": value}).value
    except ValidationError as error:
        raise wrong_value(option, str(error).split("\n", 1)[0], value) from None
    if isinstance(value, ListConfig):
        value = list(value)
    if not all(math.isfinite(v) for v in (value if isinstance(value, list) else [value]) if isinstance(v, float)):
        raise Mistake(f"{option}={value}: a finite number")
    return value


@cache
def _schema(annotation: Any) -> Any:
    """OmegaConf's own form of a value of that kind."""
    return OmegaConf.structured(make_dataclass("Option", [("value", annotation)]))


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain values that YAML and JSON can hold."""
    values = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    if not isinstance(values, dict):
        raise TypeError("a config has names")
    return {str(key): value for key, value in values.items()}


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """What of a plain config decides the result, as one flat dict.

    Nulls and false are left out, as the values that do nothing, so that a field added later does not rename old runs.
    """
    facts = flat(config)
    checked = {"data.root"} if {"data.source", "data.content"} & {*facts} else set()  # the same bytes, from anywhere
    twin = "weights.file" not in facts and any(key.startswith("weights.") for key in facts)
    left_out = UNSCIENTIFIC | checked
    if facts.get("epochs") is not None and not (twin and facts["epochs"] == 0):  # then they are the twin's
        left_out = left_out | {"recipe.iterations"}
    if "options.data" in facts:  # a data set of one's own, whose keys are whatever they are
        left_out = {key for key in left_out if not key.startswith("data.")}
    nothing = {key for key, value in facts.items() if value is None or value is False or LATER.get(key) == value}
    return {k: v for k, v in facts.items() if not (k in nothing or {k, k.split(".")[0]} & left_out)}


def experiment_seeds(experiment: Mapping[str, Any], data: str) -> list[int]:
    """The seeds of an experiment on a data set; none without experiment."""
    return experiment.get("scales", {}).get(data, {}).get("seeds", experiment.get("seeds", []))


def experiment_rows(experiment: Mapping[str, Any] | None, data: str) -> list[list[str]]:
    """The sweeps of an experiment, as typed after -m, each a list of overrides; one empty one without experiment.

    What `scales.<data>` holds goes before the rest: `seeds` and `runs` instead of the usual ones, `options` for all.
    """
    if not experiment:
        return [[]]
    here = experiment.get("scales", {}).get(data, {})
    seeds = "seed=" + ",".join(str(seed) for seed in experiment_seeds(experiment, data))
    lines = here.get("runs", experiment["runs"])
    return [[seeds, *here.get("options", []), *shlex.split(line)] for line in lines]


def add(folder: Path) -> None:
    """Looks for YAML files in a folder of a person's own, too. Raises Mistake on a folder that is not there, and on a
    file of one of the groups that will not do.
    """
    if not folder.is_dir():
        raise Mistake(f"--config-dir {folder}: no such folder")
    for group in GROUPS:
        for file in sorted((folder / group).glob("*.yaml")):
            _check_file(file, group)
    FOLDERS.append(folder)


def _check_file(file: Path, group: str) -> None:
    try:
        text = file.read_text()
        values = from_yaml(text)
    except UnicodeDecodeError:
        raise Mistake(f"{file}: is no text") from None
    except yaml.YAMLError as error:
        raise not_yaml(str(file), error) from None
    if not isinstance(values, dict):
        raise Mistake(f"{file}: holds no keys with their values, as in name: scaled")
    package = f"@package {PACKAGES.get(group, group).format(file.stem)}"
    if group in PACKAGES and package not in "".join(re.findall(r"^#.*\n", text, re.MULTILINE)):
        raise Mistake(f"{file}: its first line has to be # {package}, which says where its keys belong")
    if group == "experiment" and not isinstance(values.get("experiment"), dict):
        raise Mistake(f"{file}: has no experiment: with its seeds, runs and claims")
    if group not in (*PACKAGES, "recipe") and not {"name", "defaults"} & {*values}:
        raise Mistake(f"{file}: has no name: which function takes its values, as in name: {min(texts(group))}")


def swept(word: str) -> list[str]:
    """The values in `option=a,b`; `option={a:1,b:2}` is one, and so is `option=[1,2]`."""
    return re.split(r",(?![^{\[]*[}\]])", word.partition("=")[2])


def runs(experiment: Mapping[str, Any], data: str) -> int:
    """How many runs an experiment is on a data set."""
    return sum(math.prod(len(swept(option)) for option in row) for row in experiment_rows(experiment, data))


def about(text: str) -> str:
    """What the YAML file of an option says of it: its first comment."""
    found = re.search(r"^# ([^@].*)", text, re.MULTILINE)
    return found[1] if found else ""


def keys() -> list[str]:
    """What a person can set, whatever the chosen options."""
    recipe = [f"recipe.{field.name}" for field in fields(Recipe)]
    return [field.name for field in fields(Config)] + recipe + [f"recipe.warmup.{f.name}" for f in fields(Warmup)]


def texts(group: str) -> dict[str, str]:
    """The options of a group by their names, each as the text of its YAML file."""
    files = [file for folder in reversed(FOLDERS) for file in (folder / group).glob("*.yaml")]  # as Hydra: ours first
    return dict(sorted(({file.stem: file.read_text() for file in files} | OWN.get(group, {})).items()))


def owners(key: str) -> list[str]:
    """The options of a group that have a key: for `skip.scale`, `skip=rescaled` and so on."""
    *group, name = key.split(".")
    folder = "/".join(group)
    return [f"{folder}={option}" for option, text in texts(folder).items() if name in dict(_scalars(text))]


def origin(group: str, name: str) -> str:
    """Where an option that a group does not have may come from; empty where nobody can add one, or has."""
    for folder in FOLDERS[1:]:
        file = folder / f"{group}.py"
        if not OWN and file.is_file() and re.search(rf"^(def|class) {name}\b", file.read_text(), re.MULTILINE):
            return f"{file} defines it: options={folder}"
    if group == "experiment":
        return "" if FOLDERS[1:] else "one of your own: --config-dir FOLDER"
    return "" if OWN or group not in {*GROUPS} - {"network", "recipe"} else "one of your own: options=FOLDER"


def help_text() -> str:
    """What --help says: the scalars and the options of each group, from the YAML files and their first comments."""
    scalars = re.findall(r"^(\w+): *(\S+) *# (.*)", (CONFIGS / "train.yaml").read_text(), re.MULTILINE)
    lines = [
        f"{' '.join(command())} [option=value ...]",
        "  -m sweeps over values with commas, on all cores; -c job shows the config",
    ]
    lines += ["  config=FILE is the run of a config.yaml again; what is typed beside it goes before", ""]
    lines += [f"{f'{name}={value}':24}{meaning}" for name, value, meaning in scalars]
    for group in OPTIONS:
        lines += ["", f"{group}="]
        for option, text in texts(group).items():
            lines.append(f"  {option:22}{about(text)}".rstrip())
            if group == "experiment":
                experiment = from_yaml(text)["experiment"]
                for data, time in experiment.get("time", {}).items():
                    lines.append(f"{'':24}data={data}: {runs(experiment, data)} runs, {time}")
                continue
            where = f"probe.{option}" if group == "probe" else group.replace("/", ".")
            rate = from_yaml(text).get("rate") if group == "recipe/optimizer" else None
            given = [f"recipe.rate={rate}"] * (rate is not None)
            given += [f"{where}.{key}={value}" for key, value in _scalars(text)]
            lines += [f"{'':24}{', '.join(given)}"] * bool(given)
    return "\n".join(lines)


def command() -> list[str]:
    """What starts a run, as it is typed before its options."""
    return ["depthlab"] if installed() else ["python", "train.py"]


def report_command() -> list[str]:
    """What writes a report, as it is typed before the folder."""
    return ["depthlab-report"] if installed() else ["python", "scripts/report.py"]


def typed_again() -> str:
    """The command as it was typed, to go on: what `rerun=true` has repeated is not repeated once more."""
    words = [word for word in sys.argv[1:] if not re.fullmatch(r"\+*rerun=(true|1|yes|y|on)", word, re.IGNORECASE)]
    return shlex.join(["depthlab", *words] if installed() else ["python", sys.argv[0], *words])


def typed_command() -> str | None:
    """The command as it stands in a report, without where its runs are written; None from Python."""
    if Path(sys.argv[0]).name not in ("train.py", "depthlab"):
        return None
    words = [word for word in sys.argv[1:] if not word.startswith(("output_dir=", "rerun="))]
    return shlex.join([*command(), *words])


def from_yaml(text: str) -> Any:
    """The plain values that a YAML text holds, by libyaml where PyYAML has it: some ten times as fast."""
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def flat(node: dict[str, Any]) -> dict[str, Any]:
    """A nested dict as one with dotted keys, without what is empty."""
    return {key: value for key, value in leaves(node) if value != {}}


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each dotted key and value of a nested dict, as often as it is given, an empty dict, too."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def again(words: list[str]) -> list[str]:
    """The words of a command, `config=FILE` among them replaced by what composes that run again from its config.yaml
    alone; the other words go before. Raises Mistake where FILE is none.
    """
    at = next((i for i, word in enumerate(words) if word.startswith("config=")), None)
    if at is None:
        return words
    file = words[at].removeprefix("config=")
    if Path(file).is_dir():  # of a run
        file = str(Path(file) / "config.yaml")
    typed = {word.lstrip("+").partition("=")[0].replace("/", ".") for word in words}
    try:
        text = Path(file).expanduser().read_text()
        values = from_yaml(text)
        if values.keys() - {field.name for field in fields(Config)}:
            raise ValueError("Hydra has keys that run code")
        own = [*(values.pop("options", None) or {}).keys()]
        named = {group: option if option in texts(group) else None for group, option in chosen(values, text).items()}
        groups = {group: option or values[group].get("name") for group, option in named.items()}  # one's own YAML
        parts = {"schedule": values["recipe"]["schedule"], **values["recipe"]}  # the optimiser came later
        groups |= {f"recipe/{p}": parts[p]["name"] for p in ("schedule", "optimizer") if p in parts}
        groups |= {"probe": f"[{','.join(values['probe'])}]"}
        words_of = {key: f"{key}={option}" for key, option in groups.items() if option}
        words_of |= {key: f"++{key}={_quoted(value)}" for key, value in flat(values).items()}
    except OSError as error:
        raise Mistake(f"config={file}: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        raise Mistake(f"config={file}: not the config.yaml of a run") from None
    if own and "options" not in typed:
        raise Mistake(f"config={file}: was made with a {' and a '.join(own)} of one's own; add options=FOLDER")
    if "recipe.iterations" in typed and values.get("epochs"):  # the other way to say how long
        typed |= {"epochs"}
    if "recipe.optimizer" in typed:  # which brings its own
        typed |= {"recipe.rate", "recipe.warmup.rate"}
    composed = [word for key, word in words_of.items() if not {*_above(key)} & typed]
    return [*words[:at], *composed, *words[at + 1 :]]


def _above(key: str) -> Iterator[str]:
    """A key, and all groups that it stands in: recipe.schedule.name, recipe.schedule, recipe; groups by dots, too."""
    parts = re.split("[./]", key)
    return (".".join(parts[:count]) for count in range(len(parts), 0, -1))


def _quoted(value: Any) -> str:
    return QuotedString(value, Quote.double).with_quotes() if isinstance(value, str) else json.dumps(value)


def chosen(values: dict[str, Any], text: str) -> dict[str, str]:
    """The chosen option of each group of a run, from its config.yaml: what the `text` holds, and its first line."""
    groups = {group: node["name"] for group, node in values.items() if isinstance(node, dict) and "name" in node}
    return groups | dict(re.findall(r"(\w+)=(\w+)", text.partition("\n")[0]))  # several options can have one name


def _scalars(text: str) -> list[tuple[str, str]]:
    """The keys of a group's YAML file and their values, those of `data:` for a data set, `optimizer:` for one."""
    node = from_yaml(re.sub(r"\$\{(.*?)\}", r"\1", text)) or {}
    usual = {k: v for k, v in node.items() if not isinstance(v, dict)}
    keys = node.get("data", node.get("optimizer", usual))
    return [(k, json.dumps(v).strip('"')) for k, v in keys.items() if k not in ("name", "defaults")]


def digest(config: dict[str, Any]) -> str:
    """8 hexadecimal digits of all that decides the result."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:8]


def run_name(config: dict[str, Any]) -> str:
    """`resnet110-scaled_0.5_1-batch-s0-3f9c2a1b`: network and depth, skip, norm, what is unusual, seed, digest."""
    block = [config["block"]] if config["block"] not in (None, "basic") else []
    plain = config["skip"]["name"] == "none"
    network = "plain" if plain and config["network"]["name"] == "resnet" else config["network"]["name"]
    skip = [] if network == "plain" else [label(config["skip"])]
    words = [label(config["network"] | {"name": f"{network}{config['depth']}"}), *block, *skip, label(config["norm"])]
    words += [label(config[group]) for group, usual in USUAL.items() if config[group]["name"] != usual]
    words += [name for name in [config["recipe"]["optimizer"]["name"]] if name != "sgd"]
    return "-".join([*words, f"s{config['seed']}", digest(config)])


def label(option: dict[str, Any]) -> str:
    """The option's name and its numbers: scaled_0.5_1."""
    numbers = [f"{v:g}" for v in option.values() if isinstance(v, int | float) and not isinstance(v, bool)]
    return "_".join([option["name"], *numbers])
