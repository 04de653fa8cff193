"""What a GPU computes right, and how fast: the parts of scripts/gpu.sh, which runs them in this order.

    python scripts/gpu.py data OUT --source FOLDER    # reads CIFAR-10, or says what is missing
    python scripts/gpu.py check OUT      # passes against float64, resumption, graph and compile: OUT/check.json
    python scripts/gpu.py speed OUT      # images/s of what is right, against the usual loop: OUT/speed.json
    python scripts/gpu.py table OUT      # all of it in words; at the end the options of the fastest that is right

`--tiny`: small networks, few steps, nothing compiled, to try the script itself; it then runs on the CPU, too.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import benchmark
from depthlab.command.words import over
from depthlab.data.dataset import DataSet
from depthlab.errors import Mistake
from depthlab.machine.files import replacing
from depthlab.run import build
from depthlab.run.plan import Plan
from depthlab.training import checkpoint
from depthlab.training.loop import State

CPU = torch.device("cpu")
UNITS = {"fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8}
"""Unit roundoff of each precision: half a step of 23, 10 and 7 (stored) bits of mantissa, and one for rounding."""
SLACK = 10.0
"""How many times the expected rounding error is still right."""
STILL = 0.1
"""Two courses are compared while rounding has moved the loss by less than so much, relatively."""
RESUMED = 2
"""The step after which a run goes on from a file: rounding soon tells courses apart."""
ENOUGH = 1.3
"""Runs go two at once, as those of one depth, where they then gain so much together."""
ITERATIONS, GOALS = 64_000, {20: 120, 110: 600}
"""The paper's length, and the seconds that a run of so many layers should take."""
VARIANTS = {
    "plain loop": "precision=fp32",
    "tf32": "precision=tf32",
    "graph": "graph=true",
    "graph tf32": "graph=true precision=tf32",
    "graph bf16": "graph=true precision=bf16",
    "compile": "compile=true",
    "compile graph bf16": "compile=true graph=true precision=bf16",
}
"""Ways to train, and the options of each."""
DEPTHS = (20, 56, 110)
FULL = "data=synthetic data.augment=true width=16 recipe.batch=128 recipe=he2015"
TINY = "data=synthetic data.augment=true width=4 recipe.batch=8 recipe=he2015 data.size=8 data.test_images=8"


def made(tiny: bool, *options: str, images: int = 1280) -> Plan:
    """The plan of a network on invented images, without a warm-up, so that each step counts."""
    words = [*(TINY if tiny else FULL).split(), f"data.images={images}", "recipe.warmup.share=0", "threads=null"]
    return benchmark.planned(over(words, *(word for option in options for word in option.split())))


def passes(planned: Plan) -> dict[str, Tensor]:
    """Logits of a batch, gradient and change of all weights in one step, in float64 on the CPU."""
    where, recipe = build.device(planned.cfg), planned.cfg.recipe
    images = planned.images(CPU)
    x, y = (part.to(where) for part in next(images.batches(recipe.batch, seed=0)))
    net = build.network(planned, images, where).train()
    optimizer = planned.optimizer(net, recipe)
    before = [p.detach().clone() for p in net.parameters()]
    with build.working_precision(planned.cfg, where):
        logits = net(x)
        functional.cross_entropy(logits, y).backward()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    found = {"logits": [logits.detach()], "gradient": [gradient.clone() for gradient in gradients]}
    optimizer.step()
    found["step"] = [after.detach() - p for after, p in zip(net.parameters(), before, strict=True)]
    return {name: torch.cat([t.double().cpu().flatten() for t in parts]) for name, parts in found.items()}


def distance(a: Tensor, b: Tensor) -> float:
    """Relative: the norm of the difference over b's; infinite where a is not finite."""
    relative = ((a - b).norm() / b.norm()).item()
    return relative if relative == relative else math.inf


def check_passes(tiny: bool) -> Iterator[dict[str, Any]]:
    """Each precision's passes against float64's on the CPU. Expected: what the same precision errs on the CPU, where
    TF32 is emulated; an error at which nothing is left of the vector is never right.
    """
    for skip in ("identity", "none"):
        case = f"depth=20 skip={skip}"
        exact = passes(made(tiny, case, "device=cpu precision=fp64", images=128))
        for precision in UNITS:
            usual = passes(made(tiny, case, f"device=cpu precision={precision}", images=128))
            found = passes(made(tiny, case, f"precision={precision}", images=128))
            for name, truth in exact.items():
                error, expected = distance(found[name], truth), distance(usual[name], truth)
                right = error <= min(SLACK * expected, 0.99)
                row = {"check": f"{precision}: {name}, {case}", "error": error, "expected": expected, "right": right}
                yield row | {"precision": precision}


def losses(planned: Plan, images: DataSet, steps: int, *, nudge: float = 0.0, stop: int | None = None) -> list[float]:
    """The loss of each step; `nudge`: the weights are first changed by so much, relatively; `stop`: the step at which
    the run is saved and goes on from the file with a new network.
    """
    where = build.device(planned.cfg)

    def begin() -> tuple[State, Iterator[Any]]:
        net = build.network(planned, images, where)
        state = State(net, planned.optimizer(net, planned.cfg.recipe))
        return state, build.loop(planned, images, where, state, steps + 1)

    state, training = begin()
    with torch.no_grad():
        for parameter in state.net.parameters():
            parameter.mul_(1 + nudge * torch.randn_like(parameter))
    found, seen = [], 0.0
    for step in range(1, steps + 1):
        next(training)
        assert state.window is not None
        total = state.window[0].item()
        found.append((total - seen) / planned.cfg.recipe.batch)
        seen = total
        if step == stop:
            with tempfile.TemporaryDirectory() as folder:
                checkpoint.save(Path(folder, "checkpoint.pt"), state)
                net = build.network(planned, images, where)
                state = State(net, planned.optimizer(net, planned.cfg.recipe))
                checkpoint.load(Path(folder, "checkpoint.pt"), state)
                training = build.loop(planned, images, where, state, steps + 1)
    return found


def apart(one: list[float], usual: list[float], nudged: list[float], steps: int = 3) -> dict[str, Any]:
    """The largest relative difference of a course of the loss from the usual one, where it is largest beside what a
    nudge has made of it up to there (`expected`), until that is STILL; infinite where a loss is not finite.
    Right only if so many `steps` could be compared.
    """
    expected, worst, compared = 0.0, (0.0, 0.0, 1e-6), 0
    for a, b, c in zip(one, usual, nudged, strict=True):
        error, expected = abs(a - b) / abs(b), max(expected, abs(c - b) / abs(b), 1e-6)
        if expected > STILL:
            break
        error, compared = error if math.isfinite(error) else math.inf, compared + 1
        worst = max(worst, (error / expected, error, expected))
    right = worst[0] <= SLACK and compared >= steps
    return {"error": worst[1], "expected": worst[2], "compared": compared, "right": right}


def check_courses(tiny: bool) -> Iterator[dict[str, Any]]:
    """Resumption against going on, and each variant against the plain loop of its precision, by the loss of each
    step. Expected: what a change of the weights by the precision's rounding makes of the same loop.
    """
    steps = 8 if tiny else 200
    usual: dict[str, tuple[list[float], list[float]]] = {}
    count = 8 * (steps + 2) if tiny else 128 * (steps + 2)  # no evaluation on the way
    first = made(tiny, "depth=20", images=count)
    images = first.images(build.device(first.cfg))
    for name, options in variants(tiny).items():
        precision = _precision(options)
        if precision not in usual:
            plan = made(tiny, f"depth=20 precision={precision}", images=count)
            usual[precision] = losses(plan, images, steps), losses(plan, images, steps, nudge=UNITS[precision])
            again = apart(losses(plan, images, steps, stop=RESUMED), *usual[precision], steps=RESUMED + 1)
            yield {"check": f"{precision}: resumed", "precision": precision} | again
        if options == f"precision={precision}":
            continue
        row: dict[str, Any] = {"check": name, "variant": name, "expected": None, "error": None, "right": False}
        try:
            row |= apart(losses(made(tiny, "depth=20", options, images=count), images, steps), *usual[precision])
        except Exception as error:  # what a device cannot do is a result
            row["reason"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        yield row


def variants(tiny: bool) -> dict[str, str]:
    """The ways to train that are tried."""
    return {name: options for name, options in VARIANTS.items() if not (tiny and "compile" in name)}


def _precision(options: str) -> str:
    return options.partition("precision=")[2] or "fp32"


def right(rows: list[dict[str, Any]]) -> list[str]:
    """The variants that were checked and found right: the passes of its precision, and its course."""
    passed = {name: [row["right"] for row in rows if row.get("precision") == name] for name in UNITS}
    course = {row["variant"]: row["right"] for row in rows if "variant" in row}
    return [
        name
        for name, options in VARIANTS.items()
        if all(passed[_precision(options)] or [False])
        and course.get(name, options == f"precision={_precision(options)}")
    ]


def speed(tiny: bool, names: list[str], seconds: float) -> Iterator[dict[str, Any]]:
    """Images/s of each variant and depth, of the usual loop, and what the machine's measured rates allow, which is
    written down before anything is measured; what does not fit into the `seconds` stays out.
    """
    start, rows = time.monotonic(), list[dict[str, Any]]()
    first, images = made(tiny, "depth=20"), 16 if tiny else 6400
    where = build.device(first.cfg)
    rates = benchmark.ceilings(where)
    data = made(tiny, "depth=20", images=images).images(where)
    for depth in DEPTHS[:1] if tiny else DEPTHS:
        if time.monotonic() - start > seconds:
            break
        plan = made(tiny, f"depth={depth}", images=images)
        build.device(plan.cfg)
        allowed = benchmark.limit(plan, data, where, rates)
        print(f"depth {depth}: expected at most {allowed:,.0f} images/s of the plain loop in float32", flush=True)
        usual = _rate(benchmark.reference(plan, data, where), images, tiny)
        rows.append({"depth": depth, "variant": "usual loop", "images_s": usual, "allowed": allowed})
        yield {"rates": rates, "rows": rows, "together": {}}
        for name in names:
            if time.monotonic() - start > seconds:
                break
            plan = made(tiny, f"depth={depth}", VARIANTS[name], images=images)
            build.device(plan.cfg)
            row: dict[str, Any] = {"depth": depth, "variant": name}
            try:
                row["images_s"] = _rate(benchmark.ours(plan, data, where), images, tiny)
                row["ratio"] = row["images_s"] / usual
                if _precision(VARIANTS[name]) == "fp32":  # the rates are float32's
                    row["share"] = row["images_s"] / allowed
            except Exception as error:
                row["reason"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            rows.append(row)
            yield {"rates": rates, "rows": rows, "together": {}}
    best = _fastest(rows, 20)
    processes, window = 2, 0.5 if tiny else 5.0
    if best and (tiny or time.monotonic() - start < seconds - 45):  # which is what two starts take
        words = [word for word in (TINY if tiny else FULL).split() if word != "data=synthetic"]  # as the case has it
        options = [*words, f"data.images={images}", *VARIANTS[best].split()]
        alone, beside = (benchmark.beside("resnet20", options, n, window) for n in (1, processes))
        together = {"variant": best, "processes": processes, "gain": beside / alone}
        yield {"rates": rates, "rows": rows, "together": together}


def _rate(epochs: Iterator[benchmark.Epoch], images: int, tiny: bool) -> float:
    """Images/s, the median of the epochs of a second, two at least, after one that warms up."""
    next(epochs)
    start, seconds = time.monotonic(), list[float]()
    while len(seconds) < 2 or (not tiny and time.monotonic() - start < 1):
        seconds.append(next(epochs).steps)
    return images / statistics.median(seconds)


def _fastest(rows: list[dict[str, Any]], depth: int) -> str | None:
    measured = [row for row in rows if row["depth"] == depth and "ratio" in row]
    return max(measured, key=lambda row: row["images_s"])["variant"] if measured else None


def table(checks: list[dict[str, Any]], speeds: dict[str, Any]) -> str:
    """The checks and the speeds in lines; in the last the options of the fastest that is right, for train.py."""
    lines = [f"checked: {len(checks)}, right: {sum(row['right'] for row in checks)}"]
    for row in checks:
        error = "failed" if row["error"] is None else f"{row['error']:.2g} (rounding alone: {row['expected']:.2g})"
        lines.append(
            f"  {'right' if row['right'] else 'WRONG':6}{row['check']}: {error} {row.get('reason', '')}".rstrip()
        )
    goals = ", ".join(f"{seconds} s for {depth} layers" for depth, seconds in GOALS.items())
    lines.append(f"images/s of training steps, seconds of {ITERATIONS:,} steps of 128 (goals: {goals}), ratio to the")
    lines.append("usual loop (goals: 5 at 20 layers, 3 at 110), float32's share of what the measured rates allow")
    for row in speeds["rows"]:
        told = f"failed: {row['reason']}" if "reason" in row else ""
        if not told:
            told = f"{row['images_s']:10,.0f} {ITERATIONS * 128 / row['images_s']:8,.0f} s"
        more = "".join(f"{row[key]:7.2f}" for key in ("ratio", "share") if key in row)
        more += f"   predicted at most: {row['allowed']:,.0f}" if "allowed" in row else ""
        lines.append(f"  {row['depth']:4} {row['variant']:20}{told}{more}")
    options = VARIANTS[_fastest(speeds["rows"], 20) or "plain loop"]
    if together := speeds["together"]:
        lines.append("{processes} runs at once ({variant}): {gain:.2f} times one alone".format(**together))
        if together["gain"] >= ENOUGH:
            options += f" hydra.launcher.n_jobs={together['processes']}"
    return "\n".join([*lines, f"options: {options}"])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("data", "check", "speed", "table"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, default=120.0, help="after which speed begins nothing more")
    parser.add_argument("--source", default="", help="the folder or file of CIFAR-10; left out: it is fetched")
    given = parser.parse_args()

    whole, begun = (given.out / f"{given.part}{end}" for end in (".json", ".begun.json"))

    def read(name: str) -> Any:
        files = [given.out / f"{name}{end}" for end in (".json", ".begun.json")]
        return json.loads(next((file for file in files if file.exists()), files[0]).read_text())

    def keep(found: Any) -> None:  # at once: the part may be stopped, and is then begun anew
        with replacing(begun) as file:
            file.write(f"{json.dumps(found, indent=1)}\n".encode())

    if given.part in ("check", "speed") and not (given.tiny or torch.cuda.is_available()):
        sys.exit("error: this torch sees no GPU; --tiny tries the script without one")
    if given.part == "check":
        rows = []
        for row in chain(check_passes(given.tiny), check_courses(given.tiny)):
            rows.append(row)
            keep(rows)
    elif given.part == "speed":
        for found in speed(given.tiny, right(read("check")), given.seconds):
            keep(found)
            print(found["rows"][-1], flush=True)
    elif given.part == "data":
        try:
            benchmark.planned(["data=cifar10", *([f"data.source='{given.source}'"] * bool(given.source))]).images(CPU)
        except Mistake as mistake:
            sys.exit(f"error: {mistake}")
    else:
        print(table(read("check"), read("speed")))
    if begun.exists():
        begun.replace(whole)


if __name__ == "__main__":
    main()
