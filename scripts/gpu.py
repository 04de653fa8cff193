"""What a GPU computes right, and how fast: the parts of scripts/gpu.sh, which runs them in this order.

    python scripts/gpu.py check OUT      # passes against float64, resumption, graph and compile: OUT/check.json
    python scripts/gpu.py speed OUT      # images/s of what is right, against the usual loop: OUT/speed.json
    python scripts/gpu.py options OUT    # the options of the fastest that is right, for train.py
    python scripts/gpu.py table OUT      # all of it in words

`--tiny`: small networks, few steps, nothing compiled, to try the script itself; it then runs on the CPU, too.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import benchmark
from depthlab.run import build
from depthlab.run.plan import Plan
from depthlab.training import checkpoint
from depthlab.training.loop import State

UNITS = {"fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8}
"""Unit roundoff of each precision: half a step of 23, 10 and 7 (stored) bits of mantissa, and one for rounding."""
SLACK = 10.0
"""How many times the expected rounding error is still right."""
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
    return benchmark.planned([*words, *(word for option in options for word in option.split())])


def passes(planned: Plan, where: torch.device) -> dict[str, Tensor]:
    """Logits of a batch, gradient and change of all weights in one step, in float64 on the CPU."""
    cpu, recipe = torch.device("cpu"), planned.cfg.recipe
    images = planned.images(cpu)
    x, y = (part.to(where) for part in next(images.batches(recipe.batch, seed=0)))
    net = build.network(planned, images, where).train()
    optimizer = planned.optimizer(net, recipe)
    before = [p.detach().clone() for p in net.parameters()]
    with torch.autocast(where.type, torch.bfloat16, enabled=planned.cfg.precision.name == "bf16"):
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
    return relative if relative == relative else float("inf")


def check_passes(tiny: bool) -> Iterator[dict[str, Any]]:
    """Each precision's passes against float64's on the CPU. Expected: float32's error on the CPU, times the ratio of
    the unit roundoffs; an error at which nothing is left of the vector is never right.
    """
    for skip in ("identity", "none"):
        case = f"depth=20 skip={skip}"
        exact, usual = (
            passes(plan := made(tiny, case, f"device=cpu precision={precision}"), build.device(plan.cfg))
            for precision in ("fp64", "fp32")
        )
        for precision, unit in UNITS.items():
            if precision == "tf32" and not torch.cuda.is_available():
                continue
            plan = made(tiny, case, f"precision={precision}")
            found = passes(plan, build.device(plan.cfg))
            for name, truth in exact.items():
                expected = distance(usual[name], truth) * unit / UNITS["fp32"]
                error = distance(found[name], truth)
                right = error <= min(SLACK * expected, 0.9)
                row = {"check": f"{precision}: {name}, {case}", "error": error, "expected": expected, "right": right}
                yield row | {"precision": precision}


def losses(planned: Plan, steps: int, *, nudge: float = 0.0, stop: int | None = None) -> list[float]:
    """The loss of each step; `nudge`: the weights are first changed by so much, relatively; `stop`: the step at which
    the run is saved and goes on from the file with a new network.
    """
    where = build.device(planned.cfg)
    images = planned.images(where)

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


def apart(one: list[float], two: list[float]) -> float:
    """The largest relative difference of two courses of the loss."""
    return max(abs(a - b) / abs(b) for a, b in zip(one, two, strict=True))


def check_courses(tiny: bool) -> Iterator[dict[str, Any]]:
    """Resumption against going on, and each variant against the plain loop of its precision, by the loss of each
    step. Expected: what a change of the weights by float32's rounding makes of the same loop.
    """
    steps = 8 if tiny else 200
    plain: dict[str, tuple[list[float], float]] = {}
    images = 8 * (steps + 2) if tiny else 128 * (steps + 2)  # no evaluation on the way
    for name, options in variants(tiny).items():
        precision = _precision(options)
        if precision not in plain:
            plan = made(tiny, f"depth=20 precision={precision}", images=images)
            usual = losses(plan, steps)
            noise = apart(losses(plan, steps, nudge=UNITS["fp32"]), usual)
            plain[precision] = usual, noise
            again = apart(losses(plan, steps, stop=steps // 2), usual)
            right = again <= SLACK * noise
            yield {"check": f"{precision}: resumed", "error": again, "expected": noise, "right": right}
        if options == f"precision={precision}":
            continue
        usual, noise = plain[precision]
        row: dict[str, Any] = {"check": name, "variant": name, "expected": noise, "error": None, "right": False}
        try:
            row["error"] = apart(losses(made(tiny, "depth=20", options, images=images), steps), usual)
            row["right"] = row["error"] <= SLACK * noise
        except Exception as error:  # what a device cannot do is a result
            row["reason"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        yield row


def variants(tiny: bool) -> dict[str, str]:
    """The ways to train that can be tried here."""
    no = ["compile"] * tiny + ["tf32"] * (not torch.cuda.is_available())
    return {name: options for name, options in VARIANTS.items() if not any(word in name for word in no)}


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
    for depth in DEPTHS[:1] if tiny else DEPTHS:
        plan = made(tiny, f"depth={depth}", images=images)
        build.device(plan.cfg)
        data = plan.images(where)
        allowed = benchmark.limit(plan, data, where, rates)
        print(f"depth {depth}: expected at most {allowed:,.0f} images/s of the plain loop in float32", flush=True)
        usual = _rate(benchmark.reference(plan, data, where), images)
        rows.append({"depth": depth, "variant": "usual loop", "images_s": usual, "allowed": allowed})
        for name in names:
            if time.monotonic() - start > seconds:
                break
            plan = made(tiny, f"depth={depth}", VARIANTS[name], images=images)
            build.device(plan.cfg)
            row: dict[str, Any] = {"depth": depth, "variant": name}
            try:
                row["images_s"] = _rate(benchmark.ours(plan, data, where), images)
                row |= {"ratio": row["images_s"] / usual, "share": row["images_s"] / allowed}
            except Exception as error:
                row["reason"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            rows.append(row)
            yield {"rates": rates, "rows": rows, "together": {}}
    best = _fastest(rows, 20)
    if best and time.monotonic() - start < seconds:
        words = [word for word in (TINY if tiny else FULL).split() if word != "data=synthetic"]  # as the case has it
        options = [*words, f"data.images={images}", *VARIANTS[best].split()]
        alone, four = (benchmark.beside("resnet20", options, n, 1 if tiny else 3) for n in (1, 2 if tiny else 4))
        together = {"variant": best, "processes": 2 if tiny else 4, "gain": four / alone}
        yield {"rates": rates, "rows": rows, "together": together}


def _rate(epochs: Iterator[benchmark.Epoch], images: int) -> float:
    """Images/s of the best of two epochs, after one that warms up."""
    next(epochs)
    return images / min(epoch.steps for epoch in islice(epochs, 2))


def _fastest(rows: list[dict[str, Any]], depth: int) -> str | None:
    measured = [row for row in rows if row["depth"] == depth and "ratio" in row]
    return max(measured, key=lambda row: row["images_s"])["variant"] if measured else None


def table(checks: list[dict[str, Any]], speeds: dict[str, Any]) -> str:
    """The checks and the speeds in lines."""
    lines = [f"checked: {len(checks)}, right: {sum(row['right'] for row in checks)}"]
    for row in checks:
        error = "failed" if row["error"] is None else f"{row['error']:.2g} (expected {row['expected']:.2g})"
        lines.append(
            f"  {'right' if row['right'] else 'WRONG':6}{row['check']}: {error} {row.get('reason', '')}".rstrip()
        )
    lines.append("images/s of training steps, ratio to the usual loop, share of what the measured rates allow")
    for row in speeds["rows"]:
        told = f"{row['images_s']:10,.0f}" if "images_s" in row else f"failed: {row['reason']}"
        more = f"{row['ratio']:7.2f} {row['share']:7.2f}" if "ratio" in row else ""
        lines.append(f"  {row['depth']:4} {row['variant']:20}{told}{more}")
    if speeds["together"]:
        lines.append("{processes} runs at once ({variant}): {gain:.2f} times one alone".format(**speeds["together"]))
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("check", "speed", "options", "table"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, default=120.0, help="after which speed begins nothing more")
    given = parser.parse_args()

    whole, begun = (given.out / f"{given.part}{end}" for end in (".json", ".begun.json"))

    def read(name: str) -> Any:
        files = [given.out / f"{name}{end}" for end in (".json", ".begun.json")]
        return json.loads(next((file for file in files if file.exists()), files[0]).read_text())

    def keep(found: Any) -> None:  # at once: the part may be stopped, and is then begun anew
        begun.write_text(json.dumps(found, indent=1) + "\n")

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
    elif given.part == "options":
        print(VARIANTS[_fastest(read("speed")["rows"], 20) or "plain loop"])
    else:
        print(table(read("check"), read("speed")))
    if begun.exists():
        begun.replace(whole)


if __name__ == "__main__":
    main()
