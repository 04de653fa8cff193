"""Our training against a reference loop, side by side in one process: `python scripts/benchmark.py [resnet20 ...]`.

The reference is what the widely used CIFAR scripts do: each image cropped and flipped by PIL in two processes,
an eager network in contiguous float32 (TF32 off), and `.item()` after each step. Both train the same network and take
turns of one epoch, and a ratio is the median over the turns; how the process waits and allocates, both share. Options
of ours follow `--`: `-- precision=bf16`. Writes results/benchmarks/MACHINE.json and MACHINE.md.

`--peer FOLDER`: a checkout of github.com/akamaster/pytorch_resnet_cifar10, whose own code trains the CIFAR networks
in a third turn: its network, transforms, loaders, step and test pass. It starts its loader's processes in each epoch,
so an epoch has more images then: `-- data.images=4096`.
"""

import argparse
import io
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import multiprocessing
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset

from depthlab.command.compose import compose
from depthlab.command.words import over
from depthlab.data.dataset import DataSet
from depthlab.run import build, describe
from depthlab.run.plan import Plan, plan
from depthlab.training.loop import State

ROOT = Path(__file__).resolve().parent.parent
CIFAR = "data=synthetic data.augment=true data.images=512 data.test_images=128 width=16 recipe.batch=128"
CASES = {
    "resnet20": f"{CIFAR} depth=20",
    "resnet56": f"{CIFAR} depth=56",
    "resnet110": f"{CIFAR} depth=110",
    "digits20": "data=digits depth=20",
    "digits110": "data=digits depth=110",
    "resnet50": "data=synthetic data.size=224 data.classes=1000 data.images=32 data.test_images=8 network=imagenet "
    "width=64 depth=50 recipe.batch=8",
}


class Epoch(NamedTuple):
    """Seconds of an epoch's training steps, and of all of it, data and test pass included."""

    steps: float
    all: float


AXES = {
    "depth": (8, 20, 56, 110),
    "width": (8, 16, 32),
    "data.size": (16, 32, 64),
    "recipe.batch": (16, 64, 256),
    "devices": (1, 2),
}
"""What the cost is measured against with --scaling, each with ResNet-20's other values."""


def typed(case: str, more: list[str]) -> list[str]:
    """The options of a case, on all cores, without a warm-up, with `more` or instead of its own."""
    return over([*CASES[case].split(), "threads=null", "recipe.warmup.share=0"], *more)


def planned(options: list[str]) -> Plan:
    """The plan of a command's options."""
    return plan(*compose(options))


def ours(made: Plan, images: DataSet, where: torch.device) -> Iterator[Epoch]:
    """Endless epochs of depthlab's own loop; its augmentation counts among the steps."""
    recipe, net = made.cfg.recipe, build.network(made, images, where)
    state = State(net, made.optimizer(net, recipe))
    training = build.loop(made, images, where, state, 10**7)
    for epoch in itertools.count(1):
        start, trained = _now(where), 0.0
        while next(training) is None:
            if not trained and state.step * recipe.batch >= epoch * images.images:
                trained = _now(where)
        yield Epoch(trained - start, _now(where) - start)


class Pictures(Dataset[tuple[Any, int]]):
    """Images of the shape of a data set, transformed one by one from PIL, as torchvision's CIFAR10 does."""

    def __init__(self, images: DataSet, count: int, augment: bool) -> None:
        from torchvision import transforms  # a second and more: most commands need none

        channels, height, width = images.shape
        chance = np.random.default_rng(0)
        self.x = chance.integers(0, 256, (count, height, width, channels)).astype(np.uint8)
        self.y = chance.integers(0, images.classes, count)
        crops = [transforms.RandomCrop(height, padding=4), transforms.RandomHorizontalFlip()] if augment else []
        half = (0.5,) * channels
        self.transform = transforms.Compose([*crops, transforms.ToTensor(), transforms.Normalize(half, half)])

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.x[index].squeeze())), int(self.y[index])


def reference(made: Plan, images: DataSet, where: torch.device) -> Iterator[Epoch]:
    """Endless epochs of the usual script's loop on the same network."""
    recipe = made.cfg.recipe
    net = made.build(images.shape, images.classes).to(where)
    optimizer = torch.optim.SGD(net.parameters(), recipe.rate, recipe.momentum, weight_decay=recipe.decay)
    feed = partial(DataLoader, num_workers=2, persistent_workers=True, pin_memory=where.type == "cuda")
    augment = made.config["data"].get("augment", False)
    loader = feed(Pictures(images, images.images, augment), recipe.batch, shuffle=True)
    test = feed(Pictures(images, images.size("test"), False), 100)
    while True:
        start, trained = _now(where), 0.0
        net.train()
        for x, y in loader:
            began = _now(where)
            x, y = x.to(where), y.to(where)
            optimizer.zero_grad()
            logits = net(x)
            loss = functional.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            loss.item(), (logits.argmax(1) == y).sum().item()
            trained += _now(where) - began
        net.eval()
        with torch.no_grad():
            for x, y in test:
                logits = net(x.to(where))
                functional.cross_entropy(logits, y.to(where)).item()
        yield Epoch(trained, _now(where) - start)


class Begun(Exception):
    """The peer has made all that it trains with."""


def peer(folder: Path, made: Plan, images: DataSet, where: torch.device) -> Iterator[Epoch]:
    """Endless epochs of the peer's own code on images of our data set's shape; only its .cuda() does nothing where
    there is no GPU. Its steps include the waiting for its loader.

    Its main() is stopped where it would begin to train; from there each turn calls what it would call.
    """
    loaders, began = [], []

    def pictures(*_: Any, train: bool, transform: Any, **__: Any) -> Pictures:
        given = Pictures(images, images.images if train else images.size("test"), False)
        given.transform = transform
        return given

    def loader(*arguments: Any, **keywords: Any) -> Any:
        loaders.append(DataLoader(*arguments, **keywords))
        return loaders[-1]

    def begin(*arguments: Any) -> None:
        began.extend(arguments)
        raise Begun

    with tempfile.TemporaryDirectory() as saved, patch.dict(sys.modules), _without_cuda(where):
        typed = [f"--arch=resnet{made.cfg.depth}", f"--batch-size={made.cfg.recipe.batch}", f"--save-dir={saved}"]
        with patch("sys.path", [str(folder), *sys.path]), patch("sys.argv", ["trainer.py", *typed]):
            trainer: Any = import_module("trainer")
            with (
                patch("torchvision.datasets.CIFAR10", pictures),
                patch("torch.utils.data.DataLoader", loader),
                patch.object(trainer, "train", begin),
                suppress(Begun),
            ):
                trainer.main()
    feed, net, criterion, optimizer, _ = began
    (test,) = (other for other in loaders if other is not feed)
    for epoch in itertools.count():
        with _without_cuda(where):
            start = _now(where)
            trainer.train(feed, net, criterion, optimizer, epoch)
            trained = _now(where)
            trainer.validate(test, net, criterion)
            turn = Epoch(trained - start, _now(where) - start)
        yield turn


@contextmanager
def _without_cuda(where: torch.device) -> Iterator[None]:
    """Inside, nothing is printed, and on a CPU .cuda() gives what it is called on."""
    with redirect_stdout(io.StringIO()):
        if where.type == "cuda":
            yield
            return
        with (
            patch.object(torch.Tensor, "cuda", lambda self, *_, **__: self),
            patch.object(torch.nn.Module, "cuda", lambda self, *_, **__: self),
        ):
            yield


def _now(where: torch.device) -> float:
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    return time.perf_counter()


class Traffic(TorchDispatchMode):
    """Counts the bytes that eager operations read and write."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, out)) if isinstance(t, torch.Tensor)]
        self.total += sum(t.numel() * t.element_size() for t in tensors)
        return out


def limit(made: Plan, images: DataSet, where: torch.device, rates: dict[str, float]) -> float:
    """Images/s that the machine's measured rates allow: three times the forward pass's operations and, on a GPU, the
    bytes that an eager step without autocast reads and writes, whichever takes longer.
    """
    seconds = 6 * describe.multiply_adds(made, images.shape, images.classes) / (rates["gflops"] * 1e9)
    if where.type == "cuda":
        x, y = next(images.batches(made.cfg.recipe.batch, seed=0))
        net = build.network(made, images, where)
        with Traffic() as traffic:
            functional.cross_entropy(net(x), y).backward()
        seconds = max(seconds, traffic.total / len(x) / (rates["gigabytes"] * 1e9))
    return 1 / seconds


def ceilings(where: torch.device) -> dict[str, float]:
    """Measured: 10^9 float32 operations a second in a large product or, if that is faster, a large convolution; 10^9
    bytes a second in a copy.
    """
    size, images = (2048, 32) if where.type == "cpu" else (8192, 256)
    make = partial(torch.randn, device=where)
    a, b, copies = make(size, size), make(2**26), 20 if where.type == "cuda" else 1  # else mostly the launch
    c = torch.empty_like(b)
    x, w = (make(*shape).to(memory_format=torch.channels_last) for shape in ((images, 256, 32, 32), (256, 256, 3, 3)))
    works = {
        "product": (lambda: a @ a, 2 * size**3),
        "convolution": (lambda: functional.conv2d(x, w, padding=1), 2 * 9 * 256 * x.numel()),
        "copy": (lambda: [c.copy_(b) for _ in range(copies)], 2 * b.nbytes * copies),
    }
    best = dict.fromkeys(works, 0.0)
    for _ in range(5):
        for name, (work, amount) in works.items():
            start = _now(where)
            work()
            best[name] = max(best[name], amount / (_now(where) - start) / 1e9)
    return {"gflops": max(best["product"], best["convolution"]), "gigabytes": best["copy"]}


READY: list[Any] = []
"""In a process of `beside`: the barrier at which all wait until all have warmed up."""


def beside(case: str, more: list[str], processes: int, seconds: float) -> float:
    """Images/s of so many runs at once, a thread each, in the same seconds: what a sweep gets."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes, timeout=300)
    with context.Pool(processes, _share_barrier, (barrier,)) as pool:
        return sum(pool.map(partial(_alone, case, more), [seconds] * processes, chunksize=1))


def _share_barrier(barrier: Any) -> None:
    READY.append(barrier)


def _alone(case: str, more: list[str], seconds: float) -> float:
    made = planned(typed(case, over(more, "threads=1")))
    where = build.device(made.cfg)
    images = made.images(where)
    epochs, seen = ours(made, images, where), 0
    next(epochs)
    READY[-1].wait()
    start = time.perf_counter()
    while (past := time.perf_counter() - start) < seconds:
        next(epochs)
        seen += images.images
    return seen / past


def command(case: str, more: list[str]) -> dict[str, float]:
    """Seconds from the command to the end of its first iteration and test pass, and its peak memory in GiB."""
    with tempfile.TemporaryDirectory() as folder:
        options = typed(case, over(["epochs=null", "recipe.iterations=1", f"output_dir={folder}"], *more))
        start = time.perf_counter()
        subprocess.run([sys.executable, ROOT / "train.py", *options], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        (path,) = Path(folder).rglob("summary.json")
        summary = json.loads(path.read_text())
        peak = summary["peak_memory_bytes"] / 2**30
        return {"first_step_s": seconds, "peak_gib": peak, "images_s": summary["images_per_second"]}


def measure(
    case: str, more: list[str], turns: int, rates: dict[str, float], folder: Path | None = None
) -> dict[str, Any]:
    """A row of the table; `folder`: the peer's, for the networks that it has."""
    made = planned(typed(case, more))
    where, threads = build.device(made.cfg), torch.get_num_threads()
    images = made.images(where)
    loops = [ours(made, images, where), reference(made, images, where)]
    loops += [peer(folder, made, images, where)] if folder and CIFAR in CASES[case] else []
    rounds = [[next(loop) for loop in loops] for _ in range(turns + 1)][1:]
    pairs = [(our, theirs) for our, theirs, *_ in rounds]
    speed = [images.images / statistics.median(pair[i].steps for pair in pairs) for i in (0, 1)]
    row = {
        "case": case,
        "ours": speed[0],
        "reference": speed[1],
        "step_ratio": statistics.median(theirs.steps / our.steps for our, theirs in pairs),
        "epoch_ratio": statistics.median(theirs.all / our.all for our, theirs in pairs),
        "share_of_limit": speed[0] / limit(made, images, where, rates),
    }
    if len(loops) == 3:
        row |= {
            "peer": images.images / statistics.median(its.steps for _, _, its in rounds),
            "peer_step_ratio": statistics.median(its.steps / our.steps for our, _, its in rounds),
            "peer_epoch_ratio": statistics.median(its.all / our.all for our, _, its in rounds),
        }
    if case.startswith("digits") and where.type == "cpu":
        alone = images.images / statistics.median(theirs.all for _, theirs in pairs)
        row["runs_beside_ratio"] = beside(case, more, threads, turns * images.images / alone) / alone
    started = command(case, more)
    return row | {key: started[key] for key in ("first_step_s", "peak_gib")}


def scaling(more: list[str]) -> dict[str, dict[str, float]]:
    """Milliseconds an image of ResNet-20's training steps along each axis, and the exponent of the fitted power; for
    depth the fitted line. With several devices, as the command's summary tells, a thread each.
    """
    found: dict[str, dict[str, float]] = {}
    for axis, values in AXES.items():
        cost = {}
        for value in values:
            options = over(more, "data.images=512", "data.test_images=2", f"{axis}={value}")
            if axis == "devices":
                cost[value] = (
                    1000 / command("resnet20", over(options, "threads=1", "recipe.iterations=12"))["images_s"]
                )
                continue
            made = planned(typed("resnet20", options))
            where = build.device(made.cfg)
            images = made.images(where)
            epochs = ours(made, images, where)
            next(epochs)
            cost[value] = 1000 * statistics.median(next(epochs).steps for _ in range(3)) / images.images
        found[axis] = {str(value): round(ms, 4) for value, ms in cost.items()}
        slope, start = np.polyfit([*cost], [*cost.values()], 1)
        power, _ = np.polyfit(np.log([*cost]), np.log([*cost.values()]), 1)
        found[axis] |= (
            {"a layer": round(slope, 4), "at 0": round(start, 4)} if axis == "depth" else {"power": round(power, 2)}
        )
        print(axis, found[axis], flush=True)
    return found


def markdown(machine: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The table."""
    heads = {
        "case": "network",
        "ours": "images/s",
        "reference": "reference",
        "step_ratio": "ratio, step",
        "epoch_ratio": "ratio, epoch",
        "peer": "peer",
        "peer_step_ratio": "ratio to peer, step",
        "peer_epoch_ratio": "ratio to peer, epoch",
        "runs_beside_ratio": "ratio, a run a core",
        "share_of_limit": "share of limit",
        "first_step_s": "command to first step (s)",
        "peak_gib": "peak memory (GiB)",
    }
    lines = [", ".join(f"{key} {value}" for key, value in machine.items()), "", f"| {' | '.join(heads.values())} |"]
    lines.append("|" + "---|" * len(heads))
    for row in rows:
        cells = [row.get(key, "") for key in heads]
        lines.append("| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else cell for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all of them if none is given")
    parser.add_argument("--scaling", action="store_true", help="how the cost grows with depth, width, size and batch")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--peer", type=Path, help="a checkout of akamaster/pytorch_resnet_cifar10")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "benchmarks")
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    given, more = parser.parse_args(words[:cut]), words[cut + 1 :]
    for case in given.cases:
        if case not in CASES:
            parser.error(f"{case}: no such case (allowed: {', '.join(CASES)})")
    if given.peer and not (given.peer / "trainer.py").is_file():
        parser.error(f"--peer {given.peer}: holds no trainer.py")
    cases = given.cases or [*CASES]
    where = build.device(planned(typed(cases[0], more)).cfg)
    rates = ceilings(where)
    cpu = (
        re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        if Path("/proc/cpuinfo").exists()
        else None
    )
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else cpu[1] if cpu else platform.processor()
    machine = {"machine": f"{name}, {torch.get_num_threads()} threads", "torch": torch.__version__}
    machine |= {"options": " ".join(more) or "none", "10^9 operations/s": round(rates["gflops"])}
    machine |= {"copy, GB/s": round(rates["gigabytes"], 1)}
    machine |= {key: os.environ[key] for key in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if key in os.environ}
    stem = re.sub(r"\W+", "-", f"{name} {torch.get_num_threads()} {' '.join(more)}".strip().lower()).strip("-")
    given.output.mkdir(parents=True, exist_ok=True)
    if given.scaling:
        growth = {"machine": machine, "milliseconds an image": scaling(more)}
        (given.output / f"{stem}-scaling.json").write_text(json.dumps(growth, indent=1) + "\n")
        return
    rows = []
    for case in cases:
        rows.append(measure(case, more, given.turns, rates, given.peer))
        print(rows[-1], flush=True)
    (given.output / f"{stem}.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    (given.output / f"{stem}.md").write_text(markdown(machine, rows))
    print(markdown(machine, rows), end="")


if __name__ == "__main__":
    main()
