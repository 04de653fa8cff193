"""From a composed config to the objects that it names, checked before anything is written."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from functools import partial
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from depthlab import config, data, network, own, probes
from depthlab.config import Config
from depthlab.data.dataset import MEMBERS, DataSet
from depthlab.data.task import OfImages, OfPixels
from depthlab.errors import Mistake, hint, within, wrong_value
from depthlab.network import activation, constructed, init, norm, skip, unit, weight, weights
from depthlab.network.resnet import Network
from depthlab.run.directory import Record, Run
from depthlab.run.probing import Probe, missing
from depthlab.training import optimizer, recipe, schedule

MODULES: dict[str, ModuleType] = {"skip": skip, "unit": unit, "norm": norm, "init": init, "activation": activation}
MODULES |= {"weight": weight}
MODULES = {"network": network} | MODULES | {"data": data}  # pyrefly: ignore[bad-assignment]: it can be called, too
# What the house does with every probe; its other keys are its own.
HOUSE = {"every": float | None, "split": Literal["train", "test", "validation"], "images": int | None}
_blocks: dict[str, str] = {}
"""The block of each network that was built to check it: runs that differ in seed or rate share it."""


@dataclass
class Plan:
    """A checked config: the objects that it names, and the directory in which its run lies."""

    cfg: Config
    config: dict[str, Any]
    """The config as plain values, complete: what is stored and what the run's name is made of."""
    choices: dict[str, str]
    """The chosen option of each group, as typed."""
    options: dict[str, partial[Any]]
    schedule: Callable[[int, int], float]
    optimizer: Callable[[nn.Module, recipe.Recipe], torch.optim.Optimizer]
    probes: list[Probe]
    run: Run
    twin: "Plan | None" = None
    """The run that `weights={depth: 20}` starts from: this one with these options instead."""
    experiment: str | None = None
    """The named experiment that it is a run of."""

    @property
    def labels(self) -> str:
        """What has a label, images or pixels; images where data of one's own do not say."""
        return getattr(_gives(self.options["data"].func), "labels", "images")

    @property
    def metrics(self) -> set[str] | None:
        """What the loop measures; None where data of one's own may ask for something else."""
        if "data" in (self.config["options"] or {}):
            return None
        task = OfPixels(2) if self.labels == "pixels" else OfImages()
        of_each = task.metrics(torch.arange(task.numbers, 0, -1))
        splits = {"test": True, "clean_train": self.cfg.evaluate_train}
        splits |= {"validation": self.config["data"].get("validation")}
        trained = {"train_error", "train_loss"} if self.cfg.epochs != 0 else set()
        return trained | {f"{split}_{key}" for split, has in splits.items() if has for key in of_each}

    def blamed(self) -> AbstractContextManager[None]:
        """Inside, an error is a Mistake in the options of a person's own that it chose, if it did."""
        groups = [f"{group}={self.choices[group]}" for group in self.config["options"] or {}]
        return own.blamed(groups + [f"probe={probe.name}" for probe in self.probes if probe.file])

    def images(self, where: torch.device) -> DataSet:
        """The data set, on that device. Raises Mistake where data of one's own is none."""
        with self.blamed():
            images = self.options["data"](where)
        if lacks := [name for name in MEMBERS if not hasattr(images, name)]:
            given = f"returns {type(images).__name__}, which lacks {', '.join(lacks)}"
            raise Mistake(f"data={self.choices['data']}: {given}; depthlab.data.dataset.DataSet says what is needed")
        return images

    def finished(self) -> Record | None:
        """The summary of a run of which nothing is missing, neither its end nor what its probes measure there."""
        summary = self.run.finished()
        return None if summary is None or missing(self.probes, self.run, summary) else summary

    def build(self, shape: tuple[int, int, int], classes: int) -> Network:
        """The network for images of `shape`, its weights filled from the seed, which sets torch's random state."""
        cfg, options = self.cfg, self.options
        torch.manual_seed(cfg.seed)
        block = cfg.block.name if cfg.block else None
        with self.blamed():
            parts = options["unit"](), options["skip"], options["norm"], options["activation"], options["weight"]
            net = options["network"](shape, classes, cfg.depth, cfg.width, block, *parts)
            net.recompute = cfg.recompute
            net.activation = self.config["activation"]["name"]
            options["init"](net)
        return net

    def start(self, shape: tuple[int, int, int], classes: int) -> weights.Start | None:
        """What `weights=FILE` fills that network with; None without it. Raises Mistake where it does not fit."""
        if (given := self.config["weights"]) is None or self.twin:
            return None
        with torch.device("meta"):
            net = self.build(shape, classes)
        return weights.fit(weights.read(**given), net, given["file"])


def plan(composed: DictConfig, choices: Mapping[str, str]) -> Plan:
    """Checks a composed config, without Hydra's part, all but the data; `choices`: the chosen option of each group.

    Raises Mistake.
    """
    for group in config.OPTIONS:  # Hydra takes a file's name for an option's
        if (option := choices.get(group)) and (option.endswith(".yaml") or ".." in option):
            raise Mistake(f"{group}={option}: {hint(Path(option).stem, config.texts(group))}")
    for path, kind in (("", Config), ("recipe.", recipe.Recipe), ("recipe.warmup.", recipe.Warmup)):
        known = [field.name for field in fields(kind)]
        node = OmegaConf.select(composed, path[:-1]) if path else composed
        for key in set(node) ^ set(known):
            unknown = f"no such option; {hint(str(key), known)}"
            raise Mistake(f"{path}{key}: {unknown if key not in known else 'needs a value'}")
    cfg = cast(Config, OmegaConf.to_object(composed))
    _check_limits(cfg)
    if cfg.epochs is None and cfg.recipe.iterations is None:
        raise Mistake("recipe.iterations=null: a whole number, or epochs= in its place")

    values = config.plain(composed)
    twin, given = _twin(composed, values["weights"], choices)
    values["weights"] = _nested(given) if twin else weights.given(values["weights"])
    mine = own.modules(values["options"])
    looks = mine.pop("probe", None)
    mine = {group: module for group, module in mine.items() if config.named(values[group]) in config.public(module)}
    values["options"] = {group: module.digest for group, module in mine.items()} or None
    for group in MODULES:
        if isinstance(option := values[group], str):
            raise Mistake(f"{group}: {option}: a YAML file chooses it under defaults: - override /{group}: {option}")
    options = {group: config.bind(module, values[group], group) for group, module in (MODULES | mine).items()}
    for group, option in options.items():
        values[group] = {"name": option.func.__name__} | option.keywords
    ours = "data" not in mine
    if ours and values["data"]["name"] == "imagenet" and values["data"]["root"]:  # however it is spelled
        values["data"]["root"] = str(Path(values["data"]["root"]).expanduser().absolute())
    if ours and "content" in values["data"]:  # the images, not where they lie, decide the result
        values["data"]["content"] = data.content(values["data"]["root"], values["data"]["content"])
    parts = {}
    for part, module in (("schedule", schedule), ("optimizer", optimizer)):
        parts[part] = bound = config.bind(module, values["recipe"][part], f"recipe.{part}")
        values["recipe"][part] = {"name": bound.func.__name__} | bound.keywords
    name = values["recipe"]["optimizer"]["name"]
    optimizer.check(name)
    if name == "kfac" and (cfg.devices > 1 or cfg.recompute or cfg.graph or cfg.compile):
        raise Mistake("recipe/optimizer=kfac: looks inside a pass; leave out devices, recompute, graph and compile")
    if name == "kfac" and values["weight"]["name"] != "plain":
        raise Mistake(f"recipe/optimizer=kfac: sees plain weights alone; leave out weight={choices['weight']}")
    experiment = choices["experiment"] if values.pop("experiment") else None
    values["folder"] = values["folder"] or experiment or choices["data"]
    chosen = {group: choices[group] for group in (*MODULES, "recipe")}
    if cfg.epochs is not None and not (twin and cfg.epochs == 0):  # then they are the twin's
        values["recipe"]["iterations"] = None
    measures = _probes(values["probe"], looks)
    planned = Plan(
        cfg, values, chosen, options, parts["schedule"], parts["optimizer"], measures, Run(Path()), twin, experiment
    )
    _check_labels(planned)
    built = repr([values[key] for key in ("depth", "width", "block", "options", *MODULES) if key != "data"])
    if twin or built not in _blocks:
        with torch.device("meta"):
            net = planned.build((3, 32, 32), 10)
            if twin:
                constructed.check(net, twin.build((3, 32, 32), 10), trains=cfg.epochs != 0)
        _blocks[built] = net.block
    values["block"] = _blocks[built]
    planned.run = Run(Path(cfg.output_dir) / values["folder"] / config.run_name(values))
    return planned


def _check_limits(cfg: Config) -> None:
    """Raises Mistake on a number outside its range."""
    recipe.check(cfg.recipe)
    limits = {
        "width": (1, 65536),
        "threads": (1, 1024),
        "devices": (1, 65536),
        "seed": (0, 2**31 - 1),
        "epochs": (0, 10**6),
        "checkpoint_every": (0, 10**9),
    }
    for key, (low, high) in limits.items():
        if (given := getattr(cfg, key)) is not None:
            within(key, given, low, high)
    batch, devices = cfg.recipe.batch, cfg.devices
    if batch % devices:
        near = max(n for n in range(1, devices) if batch % n == 0)
        raise Mistake(f"devices={devices}: cannot share recipe.batch={batch} equally (nearest: {near})")


def _probes(chosen: dict[str, Any], own_module: ModuleType | None) -> list[Probe]:
    """The chosen probes, depthlab's or one's own."""
    measures = []
    for name, node in chosen.items():
        if not isinstance(node, dict) or not {*HOUSE} <= {*node}:
            raise Mistake(f"probe.{name}: choose it as probe=[{name}]")
        settings = {key: node[key] for key in node.keys() - HOUSE}
        module = own_module if own_module and name in config.public(own_module) else probes
        measure = config.bind(module, settings | {"name": name}, f"probe.{name}")
        house = {key: config.typed(f"probe.{name}.{key}", node.get(key), kind) for key, kind in HOUSE.items()}
        measures.append(Probe(name, measure, **house, file=getattr(module, "digest", None)))
    return measures


def _check_labels(planned: Plan) -> None:
    """Raises Mistake where the network labels images and the data's pixels have labels, or the other way round, and
    on what was made for networks of the other kind.
    """
    wanted, name = planned.labels, planned.choices["network"]
    fit = [option for option, its in config.public(MODULES["network"]).items() if _gives(its).labels == wanted]
    if planned.config["network"]["name"] not in fit:
        labels = "pixels" if wanted == "images" else "images"
        data = f"data={planned.choices['data']} has labels of {wanted}"
        raise Mistake(f"network={name}: labels {labels}, and {data} (allowed: {', '.join(sorted(fit))})")
    for probe in planned.probes:
        probes.check(probe.name, wanted)
    if wanted == "pixels" and planned.twin:
        raise Mistake(f"weights={{...}}: not with network={name}, whose units are no chain; leave it out")


def _gives(option: Callable[..., Any]) -> Any:
    """The class of what an option makes, as it is annotated."""
    return signature(option, eval_str=True).return_annotation


def _twin(composed: DictConfig, given: Any, choices: Mapping[str, str]) -> tuple[Plan | None, dict[str, Any]]:
    """The run with the options that `weights` gives instead, and these; None where it names a file, or nothing.

    It is trained as long as this one, and with epochs=0, where nothing would be learned, as the recipe says.
    """
    if not isinstance(given, dict) or not given or "file" in given:
        return None, {}
    composed = composed.copy()
    composed.weights, composed.rerun = None, False
    names = [name for name, _ in config.leaves(given)]
    given = dict(config.leaves(given))
    for key in given:
        if names.count(key) > 1:
            raise Mistake(f"weights.{key}: two values for one option")
    if given.get("epochs") and given.get("recipe.iterations"):
        raise Mistake("weights: epochs and recipe.iterations: each says how long; leave one out")
    composed.epochs = None if given.get("recipe.iterations") else composed.epochs or None
    known = [key for key in config.flat(config.plain(composed)) if not key.endswith(".name")]
    for key, value in given.items():
        if key not in known:
            raise Mistake(f"weights.{key}: no such option; {hint(key, known)}")
        try:
            whole = isinstance(value, float) and value.is_integer() and type(OmegaConf.select(composed, key)) is int
            OmegaConf.update(composed, key, int(value) if whole else value)
        except OmegaConfBaseException as error:
            raise wrong_value(f"weights.{key}", str(error).split("\n", 1)[0]) from None
    typed = config.flat(config.plain(composed))
    return plan(composed, choices), {key: typed[key] for key in given}


def _nested(given: dict[str, Any]) -> dict[str, Any]:
    """{recipe.rate: 0.1} as {recipe: {rate: 0.1}}."""
    nested = OmegaConf.create()
    for key, value in given.items():
        OmegaConf.update(nested, key, value)
    return config.plain(nested)
