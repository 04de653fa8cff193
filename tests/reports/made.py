"""Run directories made up without torch: what a run of known outcome leaves behind."""

import json
import math

import yaml


def run(folder, depth=20, skip="none", seed=0, train=(80.0, 40.0, 10.0), test=(85.0, 45.0, 15.0), **more):
    """A finished run with these errors (%), an evaluation every 100 iterations; `more`: lr, data, status, config,
    probes (name to a list of looks, one after each evaluation, with the same settings)."""
    lr = more.get("lr", [0.1] * len(train))
    data = more.get("data", "digits")
    choices = {"skip": skip, "data": data, "recipe": "digits"}
    config = {"depth": depth, "seed": seed, "output_dir": "outputs", "skip": {"name": skip}, "data": {"name": data}}
    config |= {"precision": "fp32", "recipe": {"iterations": 1000}}
    for key, value in more.get("config", {}).items():
        config[key] = config.get(key, {}) | value if isinstance(value, dict) else value
        choices |= {key: value["name"]} if isinstance(value, dict) and "name" in value else {}
    name = "-".join([f"resnet{depth}-{skip}", *map(str, more.get("config", {}).values()), f"{data}-s{seed}"])
    path = folder / "".join(c if c.isalnum() else "-" for c in name)
    path.mkdir(parents=True)
    chosen = " ".join(f"{group}={option}" for group, option in choices.items())
    (path / "config.yaml").write_text(f"# {chosen}\n{yaml.safe_dump(config)}")
    finite = [[v if math.isfinite(v) else None for v in values] for values in (train, test)]
    records = [
        {"step": 100 * (i + 1), "epoch": i + 1.0, "train_error": a, "test_error": b, "lr": lr[i]}
        for i, (a, b) in enumerate(zip(*finite, strict=True))
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    seen = [(v, i + 1.0) for i, v in enumerate(finite[1]) if v is not None]
    summary = {
        "status": more.get("status", "finished"),
        "iterations": 100 * len(train),
        "choices": choices,
        "depth": depth,
        "final": {"train_error": finite[0][-1], "test_error": finite[1][-1]},
        "best": {"test_error": min(seen)[0], "epoch": min(seen)[1]} if seen else {},
        "parameters": 1000 * depth,
        "seed": seed,
        "device": "cpu",
        "versions": {"torch": "2.9.0", "python": "3.11.7"},
        "git_commit": "0123456789ab",
    }
    (path / "summary.json").write_text(json.dumps(summary))
    for probe, looks in more.get("probes", {}).items():
        lines = [{"step": 100 * (i + 1), "settings": {"images": 4}} | look for i, look in enumerate(looks)]
        (path / f"probe-{probe}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
