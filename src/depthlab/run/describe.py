"""A run in words and numbers: what is said at its start and its end, and its summary."""

import platform
import subprocess
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from depthlab.config import CONFIGS, HERE, label, typed_command
from depthlab.data.dataset import DataSet
from depthlab.network.weights import NAMINGS, Start
from depthlab.run.directory import Record
from depthlab.run.plan import Plan

HORIZON = {"bf16": 27, "tf32": 40, "fp32": 84}
"""Layers at which half of a plain network's first gradient is rounding, with batch norm and ReLU; means of
ten seeds on digits in batches of 64 (docs/precision.md)."""


def multiply_adds(plan: Plan, shape: tuple[int, int, int], classes: int) -> int:
    """Multiply-adds of one image's forward pass through convolutions and products of matrices."""
    return _counted(plan, shape, classes)[0]


def _counted(plan: Plan, shape: tuple[int, int, int], classes: int) -> tuple[int, int]:
    """Multiply-adds, and parameters."""
    net = plan.build(shape, classes).eval()
    with _Counter() as counter, torch.no_grad():
        net(torch.zeros(1, *shape))
    return counter.total, sum(p.numel() for p in net.parameters())


class _Counter(TorchDispatchMode):
    """Counts multiply-adds as torch's own counter does, which would import torch's compiler: seconds of a start."""

    total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # there is nothing to keep a compiler from

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        match func.overloadpacket.__name__:
            case "convolution":
                self.total += out.numel() * args[1][0].numel()
            case "mm" | "bmm":
                self.total += out.numel() * args[0].shape[-1]
            case "addmm" | "baddbmm":
                self.total += out.numel() * args[1].shape[-1]
        return out


def facts(plan: Plan, images: DataSet, where: torch.device, processes: int, start: Start | None) -> Record:
    """What is known of a run before its first iteration, and stands in its summary."""
    operations, parameters = _counted(plan, images.shape, images.classes)
    return {
        "multiply_adds": operations,
        "devices": processes,
        "parameters": parameters,
        **({"weights": weights(plan, start)} if start or plan.twin else {}),
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
    }


def announcement(plan: Plan, images: DataSet, steps: int, done: int, facts: Record) -> list[str]:
    """What a run will do, in lines; `done`: iterations done before."""
    cfg, values, recipe = plan.cfg, plan.config, plan.cfg.recipe
    skip = values["skip"]["name"]
    layers = [label(values["activation"])]
    optimizer = values["recipe"]["optimizer"]["name"]
    layers += [f"weights {label(values['weight'])}"] * (values["weight"]["name"] != "plain")
    joined = "levels joined" if plan.labels == "pixels" else "dense" if skip == "concat" else "residual"
    kind = "plain" if skip == "none" else f"{joined} ({label(values['skip'])}, {values['unit']['name']} unit)"
    channels, height, width = images.shape
    epochs = steps * recipe.batch / images.images
    count = torch.get_num_threads()
    threads = f" ({count} thread{'s' * (count > 1)})" if facts["device"] == "cpu" else ""
    threads += f", {facts['devices']} processes" if facts["devices"] > 1 else ""
    return [
        plan.run.path.name,
        f"  network  {kind}, {cfg.depth} layers, {values['block']} blocks, width {cfg.width}, "
        f"{facts['parameters']:,} parameters, {facts['multiply_adds'] / 1e6:.4g} million multiply-adds",
        f"  layers   norm {label(values['norm'])}, init {label(values['init'])}, {', '.join(layers)}",
        *([f"  weights  {facts['weights']}"] if "weights" in facts else []),
        f"  data     {plan.choices['data']}: {images.images:,} training and {images.size('test'):,} test images, "
        f"{height}x{width}x{channels}, {images.classes} classes",
        f"  recipe   {plan.choices['recipe']}: {steps:,} iterations of {recipe.batch} images ({epochs:.4g} epochs), "
        f"rate {recipe.rate:g}, {values['recipe']['schedule']['name']}, {f'{optimizer}, ' * (optimizer != 'sgd')}"
        f"momentum {recipe.momentum:g}, decay {recipe.decay:g}",
        f"  device   {facts['device']}{threads}, {cfg.precision.name}",
        f"  writes   {plan.run.path}",
        *(_beyond(plan) if not done else []),
        *([f"  goes on  from iteration {done:,} of {steps:,}"] if done else []),
    ]


def unusual(plan: Plan, start: Start) -> str:
    """What most networks by the names in a file of weights have and this one has not; empty: nothing."""
    usual = " ".join(start.unusual(plan.config))
    return f"weights: most networks by these names want {usual}, and this one has not" if usual else ""


def weights(plan: Plan, start: Start | None) -> str:
    """Where a run's weights come from."""
    if start is None:
        added = plan.cfg.depth - plan.twin.cfg.depth if plan.twin else 0
        name = plan.twin.run.path.name if plan.twin else ""
        return f"those of {name}{f', and {added} layers that begin as the identity' * bool(added)}"
    name, new = Path(plan.config["weights"]["file"]).name, f", new head for {plan.choices['data']}"
    return f"{name}, by {NAMINGS[start.naming]}{new * start.new_head}"


def _beyond(plan: Plan) -> list[str]:
    """A line about a plain network that is too deep for its precision, else none."""
    form = plan.cfg.precision.name
    layers, parts = HORIZON.get(form), [plan.config[group]["name"] for group in ("skip", "norm", "activation")]
    fresh = plan.config["weights"] is None
    chain = plan.labels == "images"
    if layers is None or plan.cfg.depth <= layers or not (fresh and chain) or parts != ["none", "batch", "relu"]:
        return []
    return [
        f"  note     beyond some {layers} layers its first gradients are rounding in {form}: probe=gradient_precision"
    ]


def hyperparameters(plan: Plan) -> dict[str, Any]:
    """What TensorBoard's table shows: it has room for five columns, in alphabetical order."""
    cfg, chosen = plan.cfg, {group: label(plan.config[group]) for group in ("init", "norm", "skip", "unit")}
    recipe = {"training_rate": cfg.recipe.rate, "training_batch": cfg.recipe.batch, "width": cfg.width}
    return {"depth": cfg.depth, "seed": cfg.seed} | chosen | recipe


def summary(plan: Plan, records: list[Record], facts: Record, training_seconds: float) -> Record:
    """What summary.json holds: the last epoch's errors (%) and the best one's, sizes, speed, versions."""
    last = records[-1]
    chosen_by = "validation_error" if "validation_error" in last else "test_error"
    best = min(records, key=lambda record: record[chosen_by])
    return {
        "status": "diverged" if "diverged_at" in last else "finished",
        **({"diverged_at": last["diverged_at"]} if "diverged_at" in last else {}),
        "name": plan.run.path.name,
        **({"command": command} if (command := typed_command()) else {}),
        "choices": plan.choices,
        "depth": plan.cfg.depth,
        "width": plan.cfg.width,
        "block": plan.config["block"],
        "final": {key: value for key, value in last.items() if key.endswith(("_error", "_loss", "_iou"))},
        "best": {"test_error": best["test_error"], "epoch": best["epoch"], "chosen_by": chosen_by},
        **facts,
        "iterations": last["step"],
        "images_per_second": last["images"] / training_seconds if training_seconds else None,
        "seconds": last["seconds"],
        "peak_memory_bytes": _peak_memory(facts["device"]),
        "seed": plan.cfg.seed,
        **made_with(),
    }


def made_with() -> Record:
    """What of the software can change a number: versions, and the project's commit."""
    versions = {"python": platform.python_version()}
    with suppress(PackageNotFoundError):  # run from its folder, not installed
        versions["depthlab"] = version("depthlab")
    versions["torch"] = version("torch")
    return {"versions": versions, "git_commit": _commit()}


def changed(before: Record, now: Record) -> str:
    """What differs between two of `made_with`, in words; empty if nothing does, or if it is not known of `before`."""
    if "versions" not in before:
        return ""
    old, new = (made["versions"] | {"commit": made["git_commit"]} for made in (before, now))
    return ", ".join(f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name])


def reset_peak_memory(where: torch.device) -> None:
    """Forgets the peak of earlier runs of this process, where the system can."""
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory(device: str) -> int | None:
    """Bytes: the GPU's for tensors, else the process's; None where the system does not tell."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    with suppress(OSError):
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    return None


def result(summary: Record) -> str:
    """A run's one line: its name, its last errors, the best epoch's beside them."""
    final, best = summary["final"], summary["best"]
    words = [f"{summary['name']}: {summary['status']}"]
    errors = [
        f"{split.replace('_', ' ')} error {final[f'{split}_error']:.2f} %"
        for split in ("train", "clean_train", "validation", "test")
        if final.get(f"{split}_error") is not None
    ]
    if not summary["iterations"]:
        return ", ".join([*words, "not trained (epochs=0)", *(errors if "weights" in summary else [])])
    words += errors
    chosen = " chosen by validation" if best["chosen_by"] == "validation_error" else ""
    words[-1] += f" (best{chosen} {best['test_error']:.2f} %, epoch {best['epoch']:.0f})"
    words += [
        f"{key.removeprefix('test_').replace('_', ' ')} {value:.2f} %"
        for key, value in final.items()
        if key.startswith("test_") and key not in ("test_error", "test_loss") and value is not None
    ]
    return f"{', '.join(words)}, {summary['iterations']:,} iterations in {duration(summary['seconds'])}"


def found(name: str, step: int, values: Record) -> str:
    """A probe's one line: its numbers."""
    numbers = [f"{key} {value:.4g}" for key, value in values.items() if isinstance(value, int | float)]
    return f"  probe {name} at iteration {step:,}: {', '.join(numbers) or 'lists alone'}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


@cache  # as of the code that this process has read, and git takes its time
def _commit() -> str | None:
    """The project's commit, with a + where files differ from it; None outside a clone, as where it is installed."""
    if CONFIGS.parent == HERE:
        return None
    git = partial(subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True)
    try:
        commit = git(["git", "rev-parse", "--short=12", "HEAD"])
        changed = git(["git", "status", "--porcelain", "--untracked-files=no"])
    except OSError:
        return None
    return commit.stdout.strip() + "+" * bool(changed.stdout) if commit.returncode == 0 else None
