"""From a config to a finished run: plan, build, train, observe, save; skip what is done, continue what is not."""

import logging
import math
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import chain
from typing import cast

import numpy as np
import torch
import torch.distributed as dist
from omegaconf import DictConfig, open_dict

from depthlab import allocator, config, describe, gpus, workers
from depthlab.config import Config
from depthlab.data.dataset import DataSet, share, within
from depthlab.errors import Mistake
from depthlab.measure import check_finished, due, missing
from depthlab.network.constructed import construct
from depthlab.network.graph import compiled, graphed
from depthlab.network.resnet import Network
from depthlab.network.rounding import BITS, rounded_operands
from depthlab.network.weights import Start
from depthlab.observe import Interruption, Progress, TensorBoard, log_to_console, logging_to
from depthlab.plan import Plan, plan
from depthlab.runs import Record
from depthlab.training import checkpoint
from depthlab.training.distributed import ALONE, Ranks, joined, torchruns
from depthlab.training.loop import Metrics, State, train
from depthlab.training.recipe import check_rates

log = logging.getLogger("depthlab")

THREADS = torch.get_num_threads()
LONG = 3600.0
"""Seconds from which on a run on the CPU gets a warning."""


def device(cfg: Config, ranks: Ranks = ALONE) -> torch.device:
    """Chooses the device and prepares it: threads, precision. Raises Mistake where there is none of that kind."""
    name = cfg.device.name
    if name == "cuda" and not torch.cuda.is_available():
        raise Mistake("device=cuda: this torch sees no GPU (allowed here: auto, cpu)")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if cfg.graph and (cfg.recompute or cfg.devices > 1):
        raise Mistake("graph=true: a whole pass of one process; leave out recompute and devices")
    if cfg.compile and cfg.recompute:
        raise Mistake("compile=true: not together with recompute=true; leave one out")
    if cfg.compile and not (shutil.which("g++") if name == "cpu" else find_spec("triton")):
        raise Mistake(f"compile=true: torch.compile needs {'g++' if name == 'cpu' else 'triton'}, which is not here")
    torch.set_num_threads(cfg.threads or max(1, THREADS // ranks.here))
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # numpy before 2.4 would warn later, where subnormals are flushed; this it keeps
    torch.set_flush_denormal(True)
    (allocator.return_blocks if cfg.recompute else allocator.keep_blocks)()
    tensor_cores = "tf32" if cfg.precision.name == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = tensor_cores
    torch.backends.cudnn.conv.fp32_precision = tensor_cores  # pyrefly: ignore[missing-attribute]
    torch.backends.cudnn.benchmark = True
    if name == "cpu":
        return torch.device("cpu")
    there = _gpus(ranks.here)
    index = gpus.take(there)[0] if ranks.gpu is None else ranks.gpu
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _gpus(wanted: int) -> int:
    """How many GPUs this machine has; Mistake if more are wanted."""
    there = torch.cuda.device_count()
    within("devices", wanted, 1, there, "the GPUs of this machine")
    return there


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
    with joined(ranks, where) as ranks:
        return _run(planned, where, brief, ranks)


def _spread(planned: Plan, composed: DictConfig, choices: Mapping[str, str], brief: bool) -> Record:
    """The run in processes of its own; this one waits for them."""
    count, given = planned.cfg.devices, list[int | None]([None] * planned.cfg.devices)
    if planned.cfg.device.name != "cpu" and torch.cuda.is_available():
        given = list(gpus.take(_gpus(count), count))
    composed = composed.copy()
    with open_dict(composed):
        composed.pop("hydra", None)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    seats = [Ranks(rank, count, rank, count, gpu, store.port) for rank, gpu in enumerate(given)]
    workers.together(partial(_take_part, seats, composed, dict(choices), brief), count)
    return planned.run.finished() or {}


def _take_part(seats: list[Ranks], composed: DictConfig, choices: dict[str, str], brief: bool, rank: int) -> None:
    run(composed, choices, brief=brief, ranks=seats[rank])


def _run(planned: Plan, where: torch.device, brief: bool, ranks: Ranks) -> Record:
    cfg, home = planned.cfg, planned.run
    done = ranks.first_says(home.finished())
    left = missing(planned.probes, home, done) if done and not cfg.rerun else []
    if done and not cfg.rerun and not ranks.first_says(left):
        log.info("%s (done before; rerun=true repeats it)", describe.result(done))
        return done
    with ranks.first_here_first():
        images: DataSet = planned.options["data"](where)
    batch = cfg.recipe.batch
    within("recipe.batch", batch, 1, images.images, f"the data holds {images.images} training images")
    steps = iterations(cfg, images)
    for probe in planned.probes:
        probe.check(images)
    check_rates(cfg.recipe, planned.schedule, steps)
    start = None if left else planned.start(images.shape, images.classes)
    if start and start.new_head and not steps:
        raise Mistake(
            f"weights: the file's head is not for {images.classes} classes; with epochs, a new one is trained"
        )
    if planned.twin and not left:
        if not ranks.rank and not planned.twin.finished():
            planned.twin.run.wait()
        _run(planned.twin, where, brief, ranks)
    if ranks.rank:
        return _assist(planned, images, where, steps, ranks)
    operations = describe.multiply_adds(planned, images.shape, images.classes)
    if steps <= planned.config["norm"].get("start", -1):
        log.warning(f"norm={planned.choices['norm']} is plain batch norm in all {steps} iterations: norm.start")
    if left:
        check_finished(left, home, steps)
    elif done:
        with home.owned():
            home.set_aside()
    with ExitStack() as stack:
        stack.enter_context(home.owned())
        home.start(planned.config, planned.choices)
        stack.enter_context(logging_to(home.log))
        try:
            level = logging.DEBUG if brief else logging.INFO
            return _train(planned, images, where, steps, operations, start, level, done if left else None, ranks)
        except Exception:
            log.debug("the run failed", exc_info=True)
            raise


def iterations(cfg: Config, images: DataSet) -> int:
    """The length of a run."""
    if cfg.epochs is None:
        return cfg.recipe.iterations or 0
    return math.ceil(cfg.epochs * images.images / cfg.recipe.batch)


@dataclass
class Clock:
    """Seconds of a run over all its starts: in all, and in training iterations only."""

    seconds: float = 0.0
    training: float = 0.0
    step: int = 0

    def tick(self, seconds: float, step: int) -> bool:
        """Adds the seconds; whether they were an iteration's."""
        self.seconds += seconds
        trained = step > self.step
        self.training += seconds * trained
        self.step = step
        return trained


def _train(
    planned: Plan,
    images: DataSet,
    where: torch.device,
    steps: int,
    operations: int,
    start: Start | None,
    level: int,
    done: Record | None,
    ranks: Ranks,
) -> Record:
    cfg, home, batch = planned.cfg, planned.run, planned.cfg.recipe.batch
    facts: Record = {"multiply_adds": operations, "devices": ranks.world}
    net = network(planned, images, where)
    facts["parameters"] = sum(p.numel() for p in net.parameters())
    if start or planned.twin:
        facts["weights"] = describe.weights(planned, start)
    facts["device"] = torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu"

    state, clock, records, limit = State(net, planned.optimizer(net, cfg.recipe)), Clock(), [], 0.0
    digest = config.digest(planned.config)
    if done:
        home.previous.unlink(missing_ok=True)  # of a run that was killed as it ended: it is not the end's
    saved = checkpoint.resume(home.checkpoint, home.previous, state, digest=digest)
    if saved is None and start:
        start.fill(net)
    if saved is None and planned.twin:
        twin = trained(planned.twin, network(planned.twin, images, where))
        construct(net, twin, images.first("train", min(1000, images.images))[0])
    if saved is not None:
        clock = Clock(**saved["clock"])
        limit = math.inf if done else state.next_record  # only probes are left of what is done
        if not done and (changed := describe.changed(saved, describe.made_with())):
            log.warning(f"{home.path.name}: goes on with other software than before: {changed}")
        records = saved["records"] if "records" in saved else [r for r in home.records() if r["step"] < limit]
    home.keep(records)
    describe.reset_peak_memory(where)
    for line in describe.announcement(planned, images, steps, state.step, facts):
        log.log(level, line)
    if start and (usual := start.unusual(planned.config)):
        log.warning(f"weights: most networks by these names want {' '.join(usual)}, and this run has not")

    over = bool(records) and (records[-1]["step"] == steps or "diverged_at" in records[-1])
    for probe in home.probes():
        home.keep([r for r in home.records(probe) if r["step"] < limit], probe)
    training = loop(planned, images, where, state, steps, ranks, over=over)
    epochs_left = (steps - state.step) * batch / images.images
    tested = sum(map(images.size, _splits(planned, images)))
    forward = tested / batch / 3  # a test pass, in iterations: forward is a third of one

    def save() -> None:
        board.flush()
        more = {"digest": digest, "clock": vars(clock), "records": records} | describe.made_with()
        checkpoint.save(home.checkpoint, state, keep=home.previous, **more)

    def measure() -> None:
        looks = due(planned.probes, home, records, state.step, steps)
        if looks and not done and state.step:
            save()  # whatever happens in a probe
        for probe in looks:
            if interruption.signal is not None:
                return
            rate, epoch = state.optimizer.param_groups[0]["lr"], records[-1]["epoch"] if records else 0.0
            with ranks.alone(net), interruption.at_once():
                values = probe(net, images, rate)
                about = {"step": state.step, "epoch": epoch, "rate": rate, "settings": probe.settings}
                home.append(about | values, probe.name)
                board.look(probe.name, state.step, values)
                ends = level if state.step == steps else logging.DEBUG
                log.log(ends, describe.found(probe.name, state.step, values))

    def save_or_stop(late: bool) -> None:
        signal, saves = _agreed(ranks, state, interruption, late)
        if saves and not interruption.broke:  # else it was saved before the probe, which may not have tidied up
            save()
        if signal:
            progress.close()
            log.info(f"stopped and saved at iteration {state.step:,} of {steps:,}; to continue: {_command(ranks)}")
            ranks.wait()
            raise SystemExit(128 + signal)

    with ExitStack() as stack:
        interruption = stack.enter_context(Interruption().watching())
        board = stack.enter_context(TensorBoard(home.path, state.next_record, describe.hyperparameters(planned)))
        name = home.path.name if level == logging.DEBUG else None  # one of many
        test_passes = (epochs_left + 1) * forward
        progress = stack.enter_context(Progress(name, steps, state.step, batch, test_passes, state.report))
        measure()
        save_or_stop(False)
        saved_at = last = time.monotonic()
        for metrics in training:
            now = time.monotonic()
            if clock.tick(now - last, state.step) and (seconds := progress.step()):
                _tell(home.path.name, seconds, where)
            last = now
            if metrics is not None:
                position = {"step": state.step, "epoch": state.step * batch / images.images}
                records.append(position | {"images": state.step * batch, "seconds": clock.seconds} | metrics)
                home.append(records[-1])
                board.add(state.step, metrics)
                log.debug("  ".join(f"{key} {value:.6g}" for key, value in records[-1].items()))
                measure()
                last = time.monotonic()
            late = now - saved_at >= cfg.checkpoint_every
            save_or_stop(late)
            if late:
                saved_at = time.monotonic()
        summary = done
        if summary is None:
            save()
            summary = describe.summary(planned, records, facts, clock.training)
            home.finish(summary)
    ranks.wait()
    log.info(describe.result(summary))
    if interruption.signal is not None:  # it came when all was done
        raise SystemExit(128 + interruption.signal)
    log.log(level, "tensorboard --logdir %s", shlex.quote(cfg.output_dir))
    return summary


def _assist(planned: Plan, images: DataSet, where: torch.device, steps: int, ranks: Ranks) -> Record:
    """What the other processes do while the first is in `_train`: the same iterations, and no word."""
    net = network(planned, images, where)
    state = State(net, planned.optimizer(net, planned.cfg.recipe))
    with Interruption(tells=False).watching() as interruption:
        for _ in chain([None], loop(planned, images, where, state, steps, ranks)):
            signal, _ = _agreed(ranks, state, interruption, late=False)
            if signal:
                ranks.wait()
                raise SystemExit(128 + signal)
    ranks.wait()
    return {}


def _agreed(ranks: Ranks, state: State, interruption: Interruption, late: bool) -> tuple[int, bool]:
    """The signal for which all stop now, or 0, and whether the first saves, which then has the counts of all."""
    signal, saves = ranks.agree(interruption.signal or 0, late)
    if signal or saves:
        state.hand_in(ranks)
    return int(signal), bool(signal or saves)


def network(planned: Plan, images: DataSet, where: torch.device) -> Network:
    """The network of a run on its device, in its precision and memory format."""
    net = planned.build(images.shape, images.classes).to(where).to(memory_format=torch.channels_last)
    if planned.cfg.precision.name == "fp64":
        net.double().register_forward_pre_hook(lambda net, given: (given[0].to(net.head.weight.dtype),))
    return net


def trained(planned: Plan, net: Network) -> Network:
    """The network with the weights that its run ended with. Raises Mistake where they are not there, or damaged."""
    path = planned.run.checkpoint
    if not path.exists():
        raise Mistake(f"{path}: not there; the run's command, with rerun=true, makes it")
    state = State(net, planned.optimizer(net, planned.cfg.recipe))
    checkpoint.load(path, state, digest=config.digest(planned.config))
    return net


def _splits(planned: Plan, images: DataSet) -> tuple[str, ...]:
    return tuple(split for split in images.splits if split != "train" or planned.cfg.evaluate_train)


def loop(
    planned: Plan,
    images: DataSet,
    where: torch.device,
    state: State,
    steps: int,
    ranks: Ranks = ALONE,
    *,
    over: bool = False,
) -> Iterator[Metrics | None]:
    """The loop, from the first process's `state` on; nothing if it says that all is `over`."""
    cfg = planned.cfg
    if cfg.compile:
        compiled(cast(Network, state.net))
    state.hand_out(ranks)
    ranks.own_chance(cfg.seed, state.step)
    formats: dict[str, Callable[[], AbstractContextManager]] = {}
    formats["bf16"] = partial(torch.autocast, where.type, torch.bfloat16, cache_enabled=not cfg.graph)
    if where.type == "cpu":  # which has no tensor cores
        formats["tf32"] = partial(rounded_operands, BITS["tf32"])
    training = train(
        state,
        share(images, (ranks.rank, ranks.world)),
        cfg.recipe,
        planned.schedule,
        depth=cfg.depth,
        steps=steps,
        seed=cfg.seed,
        splits=_splits(planned, images),
        autocast=formats.get(cfg.precision.name, nullcontext),
        ranks=ranks,
        forward=graphed(state.net) if cfg.graph else None,
    )
    return iter(()) if ranks.first_says(over) else training


def _command(ranks: Ranks) -> str:
    """What continues this run."""
    if sys.argv[0] == "depthlab.run":
        return "the same call"
    if ranks.world == 1 or ranks.port:
        return config.typed_again()
    if ranks.here < ranks.world:
        return "the same torchrun command on each machine"
    return shlex.join(["torchrun", "--nproc-per-node", str(ranks.world), *sys.argv])


def _tell(name: str, seconds: float, where: torch.device) -> None:
    if seconds >= 60:
        log.info("%s: about %s to go", name, describe.duration(seconds))
    if seconds >= LONG and where.type == "cpu":
        log.warning("that is long on a CPU; shorter: epochs=1, data=cifar10_small, data=digits, or device=cuda")
