"""From a config to a finished run: what is done is recognised, what is not goes to a session, or to several."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from omegaconf import DictConfig

from depthlab.data.dataset import DataSet
from depthlab.errors import Mistake, within
from depthlab.machine import gpus, processes
from depthlab.run import describe
from depthlab.run.build import check_twin, count_gpus, device, iterations
from depthlab.run.console import log_to_console, logging_to
from depthlab.run.directory import InUse, Record
from depthlab.run.plan import Plan, plan
from depthlab.run.probing import check_finished, missing
from depthlab.run.session import Part, Session
from depthlab.training.distributed import Ranks, joined, torchruns
from depthlab.training.recipe import check_rates

log = logging.getLogger("depthlab")


def run(
    composed: DictConfig, choices: Mapping[str, str], *, brief: bool = False, ranks: Ranks | None = None
) -> Record:
    """Runs what the config says, or recognises that it is done; returns the summary. Raises Mistake, and SystemExit
    when interrupted. `brief`: one line on the console, as one of many runs; the log file holds all the same.

    With `devices` it starts so many processes and waits for them. `ranks`: as one of these; None: as torchrun says.
    Only the first of them says and writes anything.
    """
    ranks = ranks or torchruns()
    if ranks.rank:
        log.disabled = True
    else:
        log_to_console()
    if ranks.world > 1:
        if composed.devices not in (1, ranks.world):
            raise Mistake(f"devices={composed.devices}: {ranks.world} processes were started; leave it out")
        composed = composed.copy()
        composed.devices = ranks.world
    planned = plan(composed, choices)
    if ranks.world < planned.cfg.devices and (planned.cfg.rerun or not planned.run.finished()):
        return _spread(planned, composed, choices, brief)
    where = device(planned.cfg, ranks)
    with planned.blamed(), joined(ranks, where) as ranks:
        return _run(planned, where, brief, ranks)


def _spread(planned: Plan, composed: DictConfig, choices: Mapping[str, str], brief: bool) -> Record:
    """The run in processes of its own; this one waits for them."""
    count, given = planned.cfg.devices, list[int | None]([None] * planned.cfg.devices)
    if planned.cfg.device.name != "cpu" and torch.cuda.is_available():
        given = list(gpus.take(count_gpus(count), count))
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    seats = [Ranks(rank, count, rank, count, gpu, store.port) for rank, gpu in enumerate(given)]
    processes.together(partial(_take_part, seats, composed, dict(choices), brief), count)
    return planned.run.finished() or {}


def _take_part(seats: list[Ranks], composed: DictConfig, choices: dict[str, str], brief: bool, rank: int) -> None:
    run(composed, choices, brief=brief, ranks=seats[rank])


def _run(planned: Plan, where: torch.device, brief: bool, ranks: Ranks) -> Record:
    """The run in this process, or its part of it, unless it is done."""
    home, rerun = planned.run, planned.cfg.rerun
    done = ranks.first_says(home.finished())
    left = missing(planned.probes, home, done) if done and not rerun else []
    if done and not rerun and not ranks.first_says(left):
        log.info("%s (done before; rerun=true repeats it)", describe.result(done))
        return done
    with ranks.first_here_first():
        images = planned.images(where)
    steps = iterations(planned.cfg, images)
    _check(planned, images, steps)
    start = None if left else planned.start(images.shape, images.classes)
    if start and start.new_head and not steps:
        raise Mistake(
            f"weights: the file's head is not for {images.classes} classes; with epochs, a new one is trained"
        )
    if planned.twin and not left:
        if not planned.twin.finished():
            check_twin(planned, planned.twin, images)
        _run_twin(planned.twin, where, brief, ranks)
    if ranks.rank:
        return Part(planned, images, where, ranks).run()
    if steps <= planned.config["norm"].get("start", -1):
        log.warning(f"norm={planned.choices['norm']} is plain batch norm in all {steps} iterations: norm.start")
    facts = describe.facts(planned, images, where, ranks.world, start)
    if left:
        check_finished(left, home, steps)
    elif done:
        with home.owned():
            home.set_aside()
    with _recorded(planned):
        level = logging.DEBUG if brief else logging.INFO
        before = done if left else None
        return Session(planned, images, where, ranks, facts=facts, level=level, start=start, done=before).run()


def _run_twin(twin: Plan, where: torch.device, brief: bool, ranks: Ranks) -> None:
    """The shallower run that this one begins from; where another process has it, that one's end is waited for."""
    while True:
        if not ranks.rank and not twin.finished():
            twin.run.wait()
        try:
            _run(twin, where, brief, ranks)
            return
        except InUse:
            if ranks.world > 1:
                raise


def _check(planned: Plan, images: DataSet, steps: int) -> None:
    """Raises Mistake on what does not fit the data."""
    batch, count = planned.cfg.recipe.batch, images.images
    within("recipe.batch", batch, 1, count, f"the data holds {count} training images")
    for probe in planned.probes:
        probe.check(images)
    check_rates(planned.cfg.recipe, planned.schedule, steps)


@contextmanager
def _recorded(planned: Plan) -> Iterator[None]:
    """Inside, the run's directory is this process's alone, and its log hears what is said, failures included."""
    home = planned.run
    with home.owned():
        home.start(planned.config, planned.choices, planned.experiment)
        with logging_to(home.log):
            try:
                yield
            except Exception:
                log.debug("the run failed", exc_info=True)
                raise
