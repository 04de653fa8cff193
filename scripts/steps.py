"""How long a training step of each line of an experiment's `beside` takes, relative to the first line's.

python scripts/steps.py cures [data=digits depth=56 ...]

All lines take turns, several iterations each; the median over the rounds of the ratio within a round is written to
steps.json in the experiment's folder, where its report finds it.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from benchmark import ROOT, planned
from depthlab.command.words import over
from depthlab.config import from_yaml
from depthlab.reports.table import STEPS
from depthlab.run import build
from depthlab.training.loop import State

ROUNDS, ITERATIONS = 21, 5


def training(words: list[str]) -> Iterator[object]:
    """The endless iterations of a run, without its evaluations."""
    made = planned(words)
    where = build.device(made.cfg)
    images = made.images(where)
    net = build.network(made, images, where)
    return build.loop(made, images, where, State(net, made.optimizer(net, made.cfg.recipe)), 10**7)


def seconds(iterations: Iterator[object]) -> float:
    """Those of so many training iterations; the batches of an evaluation are as many more calls, and not counted."""
    start = time.perf_counter()
    for _ in range(ITERATIONS):
        next(iterations)
    return time.perf_counter() - start


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="cures", help="an experiment with lines `beside`")
    parser.add_argument("words", nargs="*", help="of each run, as for train.py; data=digits depth=56")
    given = parser.parse_args()
    name, more = given.name, given.words
    file = ROOT / "configs/experiment" / f"{name}.yaml"
    if not file.exists():
        parser.error(f"{name}: no such experiment")
    lines = from_yaml(file.read_text())["experiment"].get("beside")
    if not lines:
        parser.error(f"{name}: compares no lines beside each other; cures and optimizers do")
    usual = ["recipe.rate=1e-30", *(more or ["data=digits", "depth=56"])]  # no step moves, so that none diverges
    runs = {line: training(over(usual, *words.split())) for line, words in lines.items()}
    taken: dict[str, list[float]] = {line: [] for line in runs}
    for _ in tqdm(range(ROUNDS)):
        for line, run in runs.items():
            taken[line].append(seconds(run))
    first, *_ = taken.values()
    ratios = {
        line: statistics.median(a / b for a, b in zip(times, first, strict=True)) for line, times in taken.items()
    }
    folder = Path("outputs") / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STEPS).write_text(json.dumps(ratios, indent=1) + "\n")
    print(json.dumps(ratios, indent=1))


if __name__ == "__main__":
    main()
