"""From a config to a finished run: bind, build, train, observe, save; skip what is done, continue what is not."""

import logging
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import depthlab
from depthlab import config, data, network
from depthlab.config import Config
from depthlab.data.dataset import DataSet
from depthlab.errors import Mistake
from depthlab.network import activation, init, norm, skip, unit
from depthlab.observe import HOURS_ON_A_CPU, Interruption, Progress, TensorBoard, duration, log_to_console, logging_to
from depthlab.runs import Record, Run
from depthlab.training import checkpoint, recipe, schedule
from depthlab.training.loop import Metrics, State, sgd, train

log = logging.getLogger("depthlab")

MODULES = {
    module.__name__.rpartition(".")[2]: module for module in (network, skip, unit, norm, init, activation, data)
}


@dataclass
class Plan:
    """A checked config: the objects that it names, and the directory in which its run lies."""

    cfg: Config
    config: dict[str, Any]
    choices: dict[str, str]
    options: dict[str, Callable[..., Any]]
    schedule: Callable[[int, int], float]
    run: Run

    def build(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network for images of `shape`, its weights filled from the seed."""
        options, cfg = self.options, self.cfg
        torch.manual_seed(cfg.seed)
        block = cfg.block.name if cfg.block else None
        parts = options["unit"](), options["skip"], options["norm"], options["activation"]
        net = options["network"](shape, classes, cfg.depth, cfg.width, block, *parts)
        net.activation = self.config["activation"]["name"]
        options["init"](net)
        return net


def plan(composed: DictConfig, choices: Mapping[str, str]) -> Plan:
    """Checks a composed config, all but the data; `choices`: the chosen option of each group. Raises Mistake."""
    choices = {group: choices[group] for group in (*MODULES, "recipe")}
    composed = composed.copy()
    with open_dict(composed):
        composed.pop("hydra", None)
    values = config.plain(composed)
    options = {}
    for group, module in MODULES.items():
        options[group] = option = config.bind(module, values[group], group)
        values[group] = {"name": values[group]["name"], **option.keywords}
    bound = config.bind(schedule, values["recipe"]["schedule"], "recipe.schedule")
    values["recipe"]["schedule"] |= bound.keywords
    values["folder"] = values["folder"] or choices["data"]
    cfg: Config = OmegaConf.to_object(composed)
    recipe.check(cfg.recipe)
    for key, given, least in (
        ("width", cfg.width, 1),
        ("threads", 1 if cfg.threads is None else cfg.threads, 1),
        ("seed", cfg.seed, 0),
    ):
        if given < least:
            raise Mistake(f"{key}={given}: at least {least}")
    if cfg.epochs is not None and not 0 <= cfg.epochs < float("inf"):
        raise Mistake(f"epochs={cfg.epochs}: at least 0")
    path = Path(cfg.output_dir) / values["folder"] / config.run_name(values)
    planned = Plan(cfg, values, choices, options, bound, Run(path))
    with torch.device("meta"):
        planned.build((3, 32, 32), 10)
    return planned


def device(cfg: Config) -> torch.device:
    """Chooses the device and prepares it: threads, precision. Raises Mistake where there is none of that kind."""
    name = cfg.device.name
    if name == "cuda" and not torch.cuda.is_available():
        raise Mistake("device=cuda: this torch sees no GPU (allowed here: auto, cpu)")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu" and cfg.precision.name == "tf32":
        raise Mistake("precision=tf32: only GPUs have it (allowed here: fp32, bf16)")
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    torch.set_flush_denormal(True)
    tensor_cores = "tf32" if cfg.precision.name == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = tensor_cores
    torch.backends.cudnn.benchmark = True
    return torch.device(name)


def run(composed: DictConfig, choices: Mapping[str, str], *, brief: bool = False) -> Record:
    """Runs what the config says, or recognises that it is done; returns the summary. Raises Mistake, and SystemExit
    when interrupted. `brief`: one line on the console, as one of many runs; the log file holds all the same.
    """
    log_to_console()
    planned = plan(composed, choices)
    cfg, home = planned.cfg, planned.run
    done = home.finished()
    if done and not cfg.rerun:
        log.info("%s (done before; rerun=true repeats it)", result(done))
        return done
    where = device(cfg)
    images: DataSet = planned.options["data"](where)
    steps = cfg.recipe.iterations if cfg.epochs is None else -(-int(cfg.epochs * images.images) // cfg.recipe.batch)
    if cfg.recipe.batch > images.images:
        raise Mistake(f"recipe.batch={cfg.recipe.batch}: the data hold {images.images} training images")
    if done:
        home.set_aside()
    home.start(planned.config)
    with logging_to(home.log):
        return _train(planned, images, where, steps, logging.DEBUG if brief else logging.INFO)


def _train(planned: Plan, images: DataSet, where: torch.device, steps: int, level: int) -> Record:
    cfg, home = planned.cfg, planned.run
    operations = multiply_adds(planned, images)
    net = planned.build(images.shape, images.classes).to(where, memory_format=torch.channels_last)
    state = State(net, sgd(net, cfg.recipe))
    records, clock = home.records(), Clock()
    digest = config.digest(planned.config)
    if home.checkpoint.exists():
        saved = checkpoint.load(home.checkpoint, state, digest=digest)
        clock = Clock(**saved["clock"])
        records = [r for r in records if r["step"] < state.step + (state.window is None)]
    else:
        records = []
    home.keep(records)

    facts = {
        "parameters": sum(p.numel() for p in net.parameters()),
        "multiply_adds": operations,
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
    }
    _announce(planned, images, state, steps, facts, level)

    splits = tuple(s for s in images.splits if s != "train" or cfg.evaluate_train)
    half = cfg.precision.name == "bf16"
    autocast = partial(torch.autocast, where.type, torch.bfloat16) if half else nullcontext
    batch = cfg.recipe.batch

    def save() -> None:
        checkpoint.save(home.checkpoint, state, digest=digest, clock=vars(clock))

    with ExitStack() as stack:
        interruption = stack.enter_context(Interruption().watching())
        board = TensorBoard(home.path, state.step, _hyperparameters(planned))
        stack.callback(board.close)
        evaluations = (steps - state.step) * batch / images.images + 1
        cost = evaluations * sum(images.size(s) for s in splits) / batch / 3  # a forward pass of three
        progress = Progress(steps, state.step, batch, cost, lambda: state.report().get("train_error", 100.0))
        stack.callback(progress.close)
        saved_at = last = time.monotonic()
        over = bool(records) and (records[-1]["step"] == steps or "diverged_at" in records[-1])
        for metrics in (
            ()
            if over
            else train(
                state,
                images,
                cfg.recipe,
                planned.schedule,
                depth=cfg.depth,
                steps=steps,
                seed=cfg.seed,
                splits=splits,
                autocast=autocast,
            )
        ):
            now = time.monotonic()
            clock.seconds += now - last
            if state.step > clock.step:
                clock.step, clock.training = state.step, clock.training + now - last
                if seconds := progress.step():
                    _tell(seconds, where)
            last = now
            if metrics is not None:
                records.append(_record(state.step, batch, images.images, clock.seconds, metrics))
                home.append(records[-1])
                board.add(state.step, metrics)
                log.debug("  ".join(f"{k} {v:.6g}" for k, v in records[-1].items()))
            if interruption.signal is not None:
                save()
                progress.close()
                again = shlex.join(["python", *sys.argv])
                log.info("stopped and saved at iteration %d of %d; to continue: %s", state.step, steps, again)
                raise SystemExit(128 + interruption.signal)
            if now - saved_at >= cfg.checkpoint_every:
                save()
                saved_at = time.monotonic()
        save()
        summary = _summary(planned, records, steps, facts, clock, where)
        home.finish(summary)
    log.info(result(summary))
    log.log(level, "tensorboard --logdir %s", cfg.output_dir)
    return summary


@dataclass
class Clock:
    """Seconds of a run over all its starts: in all, and in training iterations only."""

    seconds: float = 0.0
    training: float = 0.0
    step: int = 0


def multiply_adds(planned: Plan, images: DataSet) -> int:
    """Multiply-adds of one image's forward pass through convolutions and linear maps, counted by torch."""
    with torch.device("meta"):
        net = planned.build(images.shape, images.classes).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.empty(1, *images.shape))
    return counter.get_total_flops() // 2


def result(summary: Record) -> str:
    """A run's one line: its name, its last errors, the best epoch beside them."""
    final, best = summary["final"], summary["best"]
    words = [f"{summary['name']}: {summary['status']}"]
    for split in ("train", "validation", "test"):
        if final.get(f"{split}_error") is not None:
            words.append(f"{split} error {final[f'{split}_error']:.2f} %")
    words[-1] += f" (best {best['test_error']:.2f} %, epoch {best['epoch']:.0f})"
    return f"{', '.join(words)}, {summary['iterations']:,} iterations in {duration(summary['seconds'])}"


def _announce(planned: Plan, images: DataSet, state: State, steps: int, facts: Record, level: int) -> None:
    cfg, values, r = planned.cfg, planned.config, planned.cfg.recipe
    kind = "plain" if values["skip"]["name"] == "none" else f"residual ({values['skip']['name']})"
    channels, height, width = images.shape
    epochs = steps * r.batch / images.images
    log.log(level, planned.run.path.name)
    log.log(
        level,
        "  network  %s, %d layers, %s parameters, %.4g million multiply-adds",
        *(kind, cfg.depth, f"{facts['parameters']:,}", facts["multiply_adds"] / 1e6),
    )
    log.log(
        level,
        "  data     %s: %s training and %s test images, %dx%dx%d, %d classes",
        *(planned.choices["data"], f"{images.images:,}", f"{images.size('test'):,}"),
        *(height, width, channels, images.classes),
    )
    log.log(
        level,
        "  recipe   %s: %s iterations of %d images (%.4g epochs), rate %g, %s, momentum %g, decay %g",
        *(planned.choices["recipe"], f"{steps:,}", r.batch, epochs),
        *(r.rate, values["recipe"]["schedule"]["name"], r.momentum, r.decay),
    )
    threads = f" ({torch.get_num_threads()} threads)" if facts["device"] == "cpu" else ""
    log.log(level, "  device   %s%s, %s", facts["device"], threads, cfg.precision.name)
    log.log(level, "  writes   %s", planned.run.path)
    if state.step:
        log.log(level, "  goes on  from iteration %s of %s", f"{state.step:,}", f"{steps:,}")


def _tell(seconds: float, where: torch.device) -> None:
    if seconds >= 30:
        log.info("about %s to go", duration(seconds))
    if seconds >= HOURS_ON_A_CPU and where.type == "cpu":
        log.warning("that is long on a CPU; shorter: epochs=1, data=cifar10_small, data=digits, or device=cuda")


def _record(step: int, batch: int, images: int, seconds: float, metrics: Metrics) -> Record:
    return {"step": step, "epoch": step * batch / images, "images": step * batch, "seconds": seconds, **metrics}


def _hyperparameters(planned: Plan) -> dict[str, Any]:
    cfg = planned.cfg
    return {"depth": cfg.depth, "width": cfg.width, "seed": cfg.seed} | planned.choices


def _summary(
    planned: Plan, records: list[Record], steps: int, facts: Record, clock: Clock, where: torch.device
) -> Record:
    last = records[-1]
    chosen_by = "validation_error" if "validation_error" in last else "test_error"
    best = min(records, key=lambda r: r[chosen_by])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "status": "diverged" if "diverged_at" in last else "finished",
        "name": planned.run.path.name,
        "choices": planned.choices,
        "depth": planned.cfg.depth,
        "final": {k: v for k, v in last.items() if k.endswith(("_error", "_loss"))},
        "best": {"test_error": best["test_error"], "epoch": best["epoch"], "chosen_by": chosen_by},
        **({"diverged_at": last["diverged_at"]} if "diverged_at" in last else {}),
        **facts,
        "iterations": last["step"],
        "images_per_second": last["images"] / clock.training if clock.training else None,
        "seconds": clock.seconds,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(where) if where.type == "cuda" else peak,
        "seed": planned.cfg.seed,
        "versions": {"depthlab": "0.1.0", "python": platform.python_version(), "torch": torch.__version__},
        "git_commit": _commit(),
    }


def _commit() -> str | None:
    """The project's commit, with a + where files differ from it."""
    git = partial(subprocess.run, cwd=Path(depthlab.__file__).parent, capture_output=True, text=True)
    try:
        commit = git(["git", "rev-parse", "--short=12", "HEAD"])
        changed = git(["git", "status", "--porcelain", "--untracked-files=no"])
    except OSError:
        return None
    return commit.stdout.strip() + "+" * bool(changed.stdout.strip()) if commit.returncode == 0 else None
