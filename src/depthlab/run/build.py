"""What a plan names, made: the device, prepared, and on it the network and the training loop."""

import math
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from typing import cast

import numpy as np
import torch
from torch import nn

from depthlab import config
from depthlab.config import Config
from depthlab.data.dataset import DataSet, share
from depthlab.errors import Mistake, within
from depthlab.machine import allocator, gpus
from depthlab.machine.memory import EVALUATION_PIXELS
from depthlab.network.constructed import construct
from depthlab.network.graph import compiled, graphed
from depthlab.network.resnet import Network
from depthlab.network.rounding import BITS, float32_products, half_precision, rounded_operands
from depthlab.run.plan import Plan
from depthlab.training import checkpoint
from depthlab.training.distributed import ALONE, Ranks
from depthlab.training.loop import Metrics, State, train

THREADS = torch.get_num_threads()


def device(cfg: Config, ranks: Ranks = ALONE) -> torch.device:
    """Chooses the device and prepares it: threads, precision. Raises Mistake where there is none of that kind."""
    name = cfg.device.name
    if name == "cuda" and not torch.cuda.is_available():
        raise Mistake("device=cuda: this torch sees no GPU (allowed here: auto, cpu)")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if cfg.graph and (cfg.recompute or cfg.devices > 1):
        raise Mistake("graph=true: a whole pass of one process; leave out recompute and devices")
    if cfg.recompute and name == "cpu" and cfg.precision.name == "tf32":
        raise Mistake("precision=tf32: emulated on a CPU, and so not together with recompute=true; leave one out")
    if cfg.compile and cfg.recompute:
        raise Mistake("compile=true: not together with recompute=true; leave one out")
    if cfg.compile and not (shutil.which("g++") if name == "cpu" else find_spec("triton")):
        raise Mistake(f"compile=true: torch.compile needs {'g++' if name == 'cpu' else 'triton'}, which is not here")
    torch.set_num_threads(cfg.threads or max(1, THREADS // ranks.here))
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # numpy before 2.4 would warn later, where subnormals are flushed; this it keeps
    torch.set_flush_denormal(True)
    (allocator.keep_whole_blocks if cfg.recompute else allocator.keep_blocks)()
    float32_products("tf32" if cfg.precision.name == "tf32" else "ieee")
    torch.backends.cudnn.benchmark = True
    if name == "cpu":
        return torch.device("cpu")
    there = count_gpus(ranks.here)
    index = gpus.take(there)[0] if ranks.gpu is None else ranks.gpu
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def count_gpus(wanted: int) -> int:
    """How many GPUs this machine has; Mistake if more are wanted."""
    there = torch.cuda.device_count()
    within("devices", wanted, 1, there, "the GPUs of this machine")
    return there


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
    tell(net, state.step)
    return net


def tell(net: nn.Module, steps: int) -> None:
    """Tells norms that change over the run, and wait for it, how long it is."""
    for module in net.modules():
        if getattr(module, "run_length", steps) is None:
            module.run_length = max(2, steps)  # pyrefly: ignore[bad-argument-type]


def check_twin(planned: Plan, twin: Plan, images: DataSet) -> None:
    """Raises Mistake where the network cannot compute what its twin does, before that is trained."""
    deep, shallow = (each.build(images.shape, images.classes) for each in (planned, twin))
    construct(deep, shallow, images.first("train", 16)[0].cpu())


def from_twin(net: Network, twin: Plan, images: DataSet, where: torch.device) -> None:
    """Fills the network such that it computes what its twin learned. Raises Mistake where that is not possible."""
    shallow = trained(twin, network(twin, images, where))
    count = min(1000, max(1, EVALUATION_PIXELS // math.prod(images.shape[1:])), images.images)
    construct(net, shallow, images.first("train", count)[0])


def iterations(cfg: Config, images: DataSet) -> int:
    """The length of a run."""
    if cfg.epochs is None:
        return cfg.recipe.iterations or 0
    return math.ceil(round(cfg.epochs * images.images / cfg.recipe.batch, 6))  # 1.1 is no binary number


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
    tell(state.net, steps)
    if cfg.compile:
        compiled(cast(Network, state.net))
    state.hand_out(ranks)
    ranks.own_chance(cfg.seed, state.step)
    training = train(
        state,
        share(images, (ranks.rank, ranks.world)),
        cfg.recipe,
        planned.schedule,
        depth=cfg.depth,
        steps=steps,
        seed=cfg.seed,
        splits=splits(planned, images),
        autocast=partial(working_precision, cfg, where),
        ranks=ranks,
        forward=graphed(state.net) if cfg.graph else None,
    )
    return iter(()) if ranks.first_says(over) else training


def working_precision(cfg: Config, where: torch.device) -> AbstractContextManager:
    """Inside, a network computes in the run's precision, so far as its parameters' and `device` do not say so."""
    match cfg.precision.name:
        case "bf16" if cfg.recompute or cfg.compile:  # a second pass, a compiler: they see what is torch's own alone
            return torch.autocast(where.type, torch.bfloat16, cache_enabled=not cfg.graph)
        case "bf16":
            return half_precision(torch.bfloat16, where.type, cache=not cfg.graph)
        case "tf32" if where.type == "cpu":  # which has no tensor cores
            return rounded_operands(BITS["tf32"])
    return nullcontext()


def splits(planned: Plan, images: DataSet) -> tuple[str, ...]:
    """What a run evaluates."""
    return tuple(split for split in images.splits if split != "train" or planned.cfg.evaluate_train)
