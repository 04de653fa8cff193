"""With batch norm, weight decay at a fixed rate is an exponentially growing rate without (Li & Arora 2019)."""

import json
from pathlib import Path

import pytest

RUN = ("data=digits", "depth=8", "width=4", "skip=none", "threads=1", "precision=fp64", "norm.eps=1e-12")
RUN += ("recipe.momentum=0", "recipe.decay_on=convolutions", "recipe.schedule_on=convolutions", "recipe.rate=0.03")
RUN += ("data.subset=256", "epochs=6")
GROWTH = (1 - 0.03 * 0.05) ** -2


def losses(command, *options):
    assert command(*RUN, *options).code == 0
    (run,) = [path.parent for path in Path("outputs/digits").glob("*/summary.json")]
    found = [json.loads(line)["train_loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    Path("outputs").rename(f"outputs-{len([*Path.cwd().iterdir()])}")
    return found


def test_decay_is_growth_in_float64(command):
    fixed = losses(command, "recipe/schedule=constant", "recipe.decay=0.05")
    growing = losses(
        command,
        *("recipe/schedule=exponential", f"recipe.schedule.growth={GROWTH}", "recipe.schedule.start=0.5"),
        "recipe.decay=0",
    )
    neither = losses(command, "recipe/schedule=constant", "recipe.decay=0")
    assert growing == pytest.approx(fixed, rel=1e-9)
    assert neither[-1] != pytest.approx(fixed[-1], rel=1e-4)
