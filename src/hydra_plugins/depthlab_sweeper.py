"""Hydra's basic sweep, which first checks all runs, skips the finished ones, does as many at once as fit into the
machine, and tells at the end how each went.
"""

import logging
import math
import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import omegaconf
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from depthlab.command.compose import Composed, without_hydra
from depthlab.config import (
    FOLDERS,
    GROUPS,
    Config,
    experiment_rows,
    flat,
    identity,
    keys,
    owners,
    report_command,
    typed_again,
)
from depthlab.errors import Mistake, extra

if TYPE_CHECKING:
    from depthlab.run.plan import Plan

log = logging.getLogger("depthlab")

EXTRAS = {"submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}
"""Launchers that are installed separately, and the extra that brings each."""
REGISTER = "register_new_resolver" if omegaconf.__version__.startswith("2.3.") else "register_resolver"
"""What OmegaConf calls it."""
VALUES = {field.name for field in fields(Config)} - {*GROUPS}
"""Options that are no groups."""
LOOKS = {"epochs", "evaluate_train", "data.validation"}
"""What decides which errors the loop measures; where one is typed, an experiment is not held to its metrics."""
EPOCH = 50_000
"""Images of an epoch, where runs are only ranked by their cost; CIFAR's."""


class DepthlabSweeper(BasicSweeper):
    """`python train.py -m ...`: the grid of runs, each at most once."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remembers what to launch with; sweep() makes the launcher, when it knows for how many runs."""
        from depthlab.machine.processes import Job

        self.hydra_context, self.config = hydra_context, config
        self.made = partial(Plugins.instance().instantiate_launcher, hydra_context, Job(task_function), config)
        self.by = config.hydra.runtime.choices["hydra/launcher"]
        package = config.hydra.launcher._target_.rpartition(".")[0].rpartition(".")[0]
        if find_spec(package) is None:
            how = f"; {extra(EXTRAS[self.by])}" if self.by in EXTRAS else ""
            raise Mistake(f"hydra/launcher={self.by}: not installed{how}")

        launcher: Any = OmegaConf.to_container(config.hydra.launcher, resolve=False)
        jobs = launcher.get("n_jobs", 1)
        if not (str(jobs).startswith("${") or (isinstance(jobs, int) and jobs)):
            raise Mistake(f"hydra.launcher.n_jobs={jobs}: how many runs at once, a whole number from 1 on")
        if self.max_batch_size is not None and not (isinstance(self.max_batch_size, int) and self.max_batch_size > 0):
            raise Mistake(f"hydra.sweeper.max_batch_size={self.max_batch_size}: a whole number from 1 on, or null")

    def sweep(self, arguments: list[str]) -> Any:
        """Launches the runs that are not finished. Raises Mistake before the first one if any of them is wrong;
        exits with 1 if any run failed, or was stopped alone.
        """
        from depthlab.data.images import EXPECTED
        from depthlab.experiment import check
        from depthlab.run.console import log_to_console
        from depthlab.run.describe import result
        from depthlab.run.directory import InUse
        from depthlab.run.plan import plan
        from depthlab.training.distributed import torchruns

        if self.hydra_context is None or self.config is None:
            raise RuntimeError("setup() comes before sweep()")
        if torchruns().world > 1:
            raise Mistake("torchrun: a sweep starts its processes itself: python train.py, with devices=N")
        if not isinstance(self.params or {}, Mapping):
            raise Mistake(f"hydra.sweeper.params={self.params}: options by name, or null")
        log_to_console()
        loader = self.hydra_context.config_loader
        parser = OverridesParser.create(config_loader=loader)
        choices = self.config.hydra.runtime.choices
        experiment: Any = OmegaConf.to_container(self.config.experiment or OmegaConf.create(), resolve=True)
        if experiment:
            check(choices.experiment, experiment)
        by_data = _by_data(parser, arguments, choices.data)
        sweeps = [
            parser.parse_overrides([*row, *self._parse_config(), *typed])
            for data, typed in by_data.items()
            for row in experiment_rows(experiment, data)
        ]
        grid = [list(job) for sweep in sweeps for batch in self.split_arguments(sweep, None) for job in batch]
        grid = _fitting(grid, choices, experiment=bool(experiment))
        if not grid:
            raise Mistake("no run: one of the sweeps has no value, as range(3,0) or a glob that fits nothing")
        plans = [plan(*made) for made in composed(loader, self.config, grid)]
        if experiment:
            for data in by_data:
                there = [planned for planned in plans if len(by_data) == 1 or planned.choices["data"] == data]
                foresee(choices.experiment, experiment, there, arguments)
        ours = [planned for planned in plans if "data" not in (planned.config["options"] or {})]
        if any(planned.config["data"].get("root", "") is None for planned in ours):
            raise Mistake(f"data.root=null: {EXPECTED}")
        pairs = list(zip(plans, grid, strict=True))
        _distinct(plans)
        if plans[0].cfg.order.name == "cheapest":
            pairs.sort(key=_ranks(plans))
        jobs = {planned.run.path: (planned, job) for planned, job in pairs}
        done = {path: planned.finished() for path, (planned, _) in jobs.items() if not planned.cfg.rerun}
        left = {path: pair for path, pair in jobs.items() if not done.get(path)}
        for planned, _ in left.values():  # here, so that a stopped sweep goes on with what it has not repeated
            if planned.cfg.rerun and planned.run.finished():
                with suppress(InUse), planned.run.owned():
                    planned.run.set_aside()
        log.info(f"{len(jobs)} run{'s' * (len(jobs) != 1)}: {len(jobs) - len(left)} done, {len(left)} to run")
        for summary in filter(None, done.values()):
            log.info(result(summary))
        if not left:
            _tell([planned for planned, _ in jobs.values()])
            return []

        returns, ended = self._launch(left)
        failed = _tell_failures(returns)
        _tell([planned for planned, _ in jobs.values()], failed)
        stopped = sum(not left[path][0].run.finished() for path in returns.keys() - failed.keys())
        if ended:
            log.error(f"hydra/launcher={self.by} gave up: {ended}; to continue: {typed_again()}")
        elif stopped:
            log.error(f"{stopped} run{'s were' if stopped > 1 else ' was'} stopped; to continue: {typed_again()}")
        for folder in dict.fromkeys(planned.cfg.output_dir for planned in plans):
            log.info("tensorboard --logdir %s", shlex.quote(folder))
        for folder in dict.fromkeys(str(planned.run.path.parent) for planned in plans):
            log.info(shlex.join([*report_command(), folder, *(f"--config-dir={own}" for own in FOLDERS[1:])]))
        if failed or ended or stopped:
            raise SystemExit(1)
        return [list(returns.values())]

    def _launch(self, left: "dict[Path, tuple[Plan, list[str]]]") -> tuple[dict[Path, JobReturn], str | None]:
        """Launches the runs. Gives what they returned, and the reason if some did not."""
        from depthlab.machine.processes import handing_on, one_line
        from depthlab.run.console import overall

        plans, start = [planned for planned, _ in left.values()], time.time()
        machine = shared([planned.cfg for planned in plans])
        getattr(OmegaConf, REGISTER)("machine", lambda name: machine[name], replace=True)
        launcher, returns, ended = self.made(), {}, None
        several = getattr(launcher, "joblib", {}).get("n_jobs", 1) != 1  # one of joblib's stays in this process
        paths, size = list(left), self.max_batch_size or len(left)
        if self.by == "submitit_local":  # it starts all that it gets, and each takes all cores
            size = self.max_batch_size or machine["runs"]
            os.environ.setdefault("OMP_NUM_THREADS", str(machine["threads"]))
        costs = [planned.cfg.depth * max(1, _images(planned.cfg)) for planned in plans]
        timed = not any(planned.probes for planned in plans)  # what these take is not known before
        progress = overall(costs, lambda: [_share(planned, start) for planned in plans], timed)
        with handing_on() if several else nullcontext([]) as came, progress:
            for first in range(0, len(left), size):
                batch = paths[first : first + size]
                try:
                    jobs = launcher.launch([left[path][1] for path in batch], initial_job_idx=first)
                    returns.update(zip(batch, jobs, strict=True))
                except Exception as error:
                    ended = one_line(error)
        if came:
            _tell_failures(returns)
            log.info(f"stopped; to continue: {typed_again()}")
            raise SystemExit(128 + came[0])
        return returns, ended


def _tell_failures(returns: dict[Path, JobReturn]) -> dict[Path, Any]:
    """Says which runs failed, and why; returns the reasons."""
    failed = {path: job._return_value for path, job in returns.items() if job.status is not JobStatus.COMPLETED}
    for path, reason in failed.items():
        log.error(f"{path.name}: failed: {reason}")
    return failed


def composed(loader: ConfigLoader, sweep: DictConfig, jobs: Iterable[list[str]]) -> Iterator[Composed]:
    """The config of each run; those that choose the same options are composed once, before they get their values."""
    parser, made = OverridesParser.create(config_loader=loader), dict[tuple[str, ...], Composed]()
    for job in jobs:
        values = [word for word in job if _gives_value(word)]
        options = tuple(word for word in job if not _gives_value(word))
        if options not in made:
            made[options] = without_hydra(loader.load_sweep_config(sweep, [*options]))
            if experiment := made[options].cfg.experiment:  # a run needs no more of it than that it is there
                made[options].cfg.experiment = {"title": experiment.get("title")}
        cfg = made[options].cfg.copy()
        ConfigLoaderImpl._apply_overrides_to_config(parser.parse_overrides(values), cfg)
        yield made[options]._replace(cfg=cfg)


def _gives_value(word: str) -> bool:
    """Whether a word gives a key its value, after all options have been chosen."""
    key = word.lstrip("+").partition("=")[0]
    return "/" not in key and ("." in key or key in VALUES) and not key.startswith("hydra.")


def shared(configs: Sequence[Config]) -> dict[str, int]:
    """How the machine is shared: so many runs at once, and the threads and GPUs of each.

    A run's threads are what its config says, all cores where it says nothing: it computes the same bits alone and
    beside others, and one that takes all cores leaves none to another.
    """
    import joblib
    import torch

    cores, each = joblib.cpu_count(), max(cfg.devices for cfg in configs)
    gpus = torch.cuda.device_count() if any(cfg.device.name != "cpu" for cfg in configs) else 0
    fit = gpus // each if gpus else cores // max(cfg.devices * (cfg.threads or cores) for cfg in configs)
    runs = max(1, fit if os.name == "posix" else 1)  # elsewhere no signal could be handed on to several
    threads = max(1, cores // runs)
    return {"runs": min(runs, len(configs)), "threads": threads, "gpus": gpus, "gpus_each": min(each, gpus)}


def _ranks(plans: "list[Plan]") -> "Callable[[tuple[Plan, Any]], tuple[float, int]]":
    """Sorts runs by what they compute, the seeds of a row together, rows that cost the same as they were typed."""
    from depthlab.run.describe import multiply_adds

    def row(planned: "Plan") -> str:
        return repr({key: value for key, value in identity(planned.config).items() if key != "seed"})

    ranks: dict[str, tuple[float, int]] = {}
    for place, planned in enumerate(plans):
        if (key := row(planned)) not in ranks:
            side = planned.config["data"].get("size") or 32
            ranks[key] = multiply_adds(planned, (3, side, side), 10) * _images(planned.cfg), place
    return lambda pair: ranks[row(pair[0])]


def _by_data(parser: OverridesParser, arguments: list[str], usual: str) -> dict[str, list[str]]:
    """What is typed, for each data set that is swept: an experiment has rows of its own for each. Raises Mistake
    where experiments are swept.
    """
    parsed = parser.parse_overrides(arguments)
    swept = {override.key_or_group: override for override in parsed if override.is_sweep_override()}
    if "experiment" in swept:
        raise Mistake(f"{swept['experiment'].input_line}: one experiment a command")
    if "data" not in swept or not any(word.startswith("experiment=") for word in arguments):
        return {usual: arguments}
    if not swept["data"].is_choice_sweep():
        raise Mistake(f"{swept['data'].input_line}: an experiment needs their names, as in data=digits,mnist1d")
    others = [word for word, override in zip(arguments, parsed, strict=True) if override.key_or_group != "data"]
    names = [name.strip("\"'") for name in swept["data"].sweep_string_iterator()]
    return {name: [f"data={name}", *others] for name in names}


def _distinct(plans: "list[Plan]") -> None:
    """Raises Mistake where two different runs would have one name, as what tells them apart is no part of it, and
    where one run would be in two folders, and so counted twice.
    """
    if len({planned.run.path.name for planned in plans}) < len({planned.run.path for planned in plans}):
        raise Mistake("output_dir, folder: one run in two folders; a command each")
    seen: dict[Path, Plan] = {}
    for planned in plans:
        one, other = (flat(p.config) for p in (seen.setdefault(planned.run.path, planned), planned))
        for key in one | other:
            if one.get(key) != other.get(key):
                group = key.partition(".")[0]
                more = "; several in one run: 'probe=[A,B]'" if group == "probe" else "; a command each"
                raise Mistake(
                    f"{group if group == 'probe' else key}: no part of a run's name, so not to be swept{more}"
                )


def _images(cfg: Config) -> float:
    """How many images a run trains on, where that is only compared."""
    return (cfg.recipe.iterations or 0) * cfg.recipe.batch if cfg.epochs is None else cfg.epochs * EPOCH


def _share(planned: "Plan", start: float) -> float:
    """How much of a run is done, by its files, from 0 to 1; of a repeated one only what came after `start` counts."""
    cfg, home = planned.cfg, planned.run
    try:
        if cfg.rerun and home.config.stat().st_mtime < start:
            return 0
        if home.summary.exists():
            return 1
        last = home.records()[-1]
    except (OSError, LookupError, Mistake):
        return 0
    all_of_it = cfg.recipe.iterations if cfg.epochs is None else cfg.epochs
    return min(0.99, last["step" if cfg.epochs is None else "epoch"] / (all_of_it or 1))


def _fitting(grid: list[list[str]], choices: Mapping[str, str], *, experiment: bool) -> list[list[str]]:
    """The runs, each an own list of words; in an experiment a typed key goes to those of its options that have it.
    Raises Mistake on a key that one of the swept options does not have, or none of an experiment's.
    """
    fitting, used, refused, known = [], set(), {}, keys()
    for job in grid:
        chosen = {**choices, **dict(word.split("=", 1) for word in job if not word.startswith("+"))}
        mine = []
        for word in job:
            key = word.removeprefix("++").partition("=")[0]
            group = "/".join(key.split(".")[:-1])
            having = owners(key) if word.startswith("++") and key not in known else []
            if having and f"{group}={chosen[group]}" not in having:
                others = f"{', '.join(having)} {'has' if len(having) == 1 else 'have'} it"
                refused[key] = Mistake(f"{key}: {group}={chosen[group]} has no such option; {others}")
            else:
                used.add(key)
                mine.append(word)
        fitting.append(mine)
    for key, mistake in refused.items():
        if not experiment or key not in used:
            raise mistake
    return fitting


def foresee(name: str, experiment: dict[str, Any], plans: "list[Plan]", arguments: list[str]) -> None:
    """Raises Mistake on a claim or figure about what none of these runs will be or measure."""
    from depthlab.reports import foreseen

    typed = {word.lstrip("+").partition("=")[0].replace("/", ".") for word in arguments}
    measured = [planned.metrics for planned in plans if not typed & LOOKS]
    foreseen.check(
        name,
        experiment,
        plans[0].choices["data"],
        [identity(planned.config) | planned.choices for planned in plans],
        probes={probe.name for planned in plans for probe in planned.probes},
        metrics={metric for metrics in measured for metric in metrics or ()} if measured and all(measured) else None,
        typed=typed,
    )


def _tell(plans: "list[Plan]", failed: Collection[Path] = ()) -> None:
    """A line for the runs that differ only in the seed: how they ended, mean ± standard deviation of their errors."""
    from depthlab.reports.collect import Result, rows
    from depthlab.reports.table import mean

    results = []
    for planned in plans:
        path, status = planned.run.path, "failed" if planned.run.path in failed else "unfinished"
        unfinished = {"status": status, "seed": planned.cfg.seed, "choices": planned.choices, "final": {}}
        summary = None if path in failed else planned.run.finished()
        results.append(Result(path, planned.config, summary or unfinished, []))
    made = rows(results)
    width = max(len(row.label) for row in made)
    for row in made:
        summaries = [result.summary for result in row.results]
        ends = Counter(summary["status"] for summary in summaries)
        words = [", ".join(f"{count} {status}" for status, count in ends.items())]
        untrained = all(summary.get("iterations") == 0 and "weights" not in summary for summary in summaries)
        for metric in ("train_error", "test_error") if not untrained else ():
            values = [value for value in row.values(metric) if math.isfinite(value)]
            words += [f"{metric.replace('_', ' ')} {mean(values)} %"] * bool(values)
        log.info(f"  {row.label:{width}}  {'  '.join(words)}")
