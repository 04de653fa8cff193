"""What the fast paths do to the errors: `python scripts/fidelity.py digits [cifar10_small ...]`.

Plain and residual networks of 20 layers (`--depth`), three seeds each, trained by the same loop three times over:
`usual` (contiguous memory, SGD as loops over the parameters), `fast` (channels last, one kernel; what the command
does) and `bf16` (fast, precision=bf16). The start and the order of the images are those of the seed in all three.
Appends a line a run to results/benchmarks/fidelity.jsonl, with its curve, and prints the table; a run that stands
there is not repeated.
"""

import argparse
import json
import statistics
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmark import ROOT, planned
from depthlab.command.words import over
from depthlab.run import build
from depthlab.training.loop import State

OUTPUT = ROOT / "results" / "benchmarks" / "fidelity.jsonl"
PATHS, SKIPS, SEEDS = ("usual", "fast", "bf16"), ("none", "identity"), (0, 1, 2)


def curve(data: str, depth: int, skip: str, seed: int, path: str, more: list[str]) -> list[dict[str, float]]:
    """The errors after each epoch."""
    precision = "bf16" if path == "bf16" else "fp32"
    words = [f"data={data}", f"depth={depth}", f"skip={skip}", f"seed={seed}", f"precision={precision}"]
    made = planned(over(words, *more))
    where = build.device(made.cfg)
    images = made.images(where)
    net = build.network(made, images, where)
    optimizer = made.optimizer(net, made.cfg.recipe)
    if path == "usual":
        net.to(memory_format=torch.contiguous_format)
        net.register_forward_pre_hook(lambda _, given: given[0].clone(memory_format=torch.contiguous_format))
        for group in optimizer.param_groups:
            group["fused"] = group["foreach"] = False
    training = build.loop(made, images, where, State(net, optimizer), build.iterations(made.cfg, images))
    return [metrics for metrics in training if metrics is not None]


def table(lines: list[dict[str, Any]]) -> str:
    """Final errors: mean and deviation over seeds on each path."""
    found: dict[tuple[str, str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        for error in ("train_error", "test_error"):
            key = line["data"], str(line["depth"]), line["skip"], error
            found[key][line["path"]].append(line["curve"][-1][error])
    rows = [f"| data | layers | skip | error (%) | {' | '.join(PATHS)} |", "|" + "---|" * (4 + len(PATHS))]
    for key, errors in found.items():
        cells = [f"{statistics.mean(e):.2f} ± {statistics.stdev(e):.2f}" for e in map(errors.get, PATHS) if e]
        rows.append(f"| {' | '.join([*key, *cells])} |")
    return "\n".join(rows)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="digits, cifar10_small, cifar10")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given, more = parser.parse_known_args()
    text = given.output.read_text() if given.output.exists() else ""
    lines = [json.loads(line) for line in text.splitlines()]
    done = {tuple(line[key] for key in ("data", "depth", "skip", "seed", "path")) for line in lines}
    todo = [run for run in product(given.data, [given.depth], SKIPS, SEEDS, PATHS) if run not in done]
    for data, depth, skip, seed, path in tqdm(todo, disable=None):
        lines.append({"data": data, "depth": depth, "skip": skip, "seed": seed, "path": path})
        lines[-1] |= {"curve": curve(data, depth, skip, seed, path, more), "torch": torch.__version__}
        with given.output.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
    print(table(lines))


if __name__ == "__main__":
    main()
