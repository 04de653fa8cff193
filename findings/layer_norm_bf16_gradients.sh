#!/bin/sh
# torch 2.14.1, on a CPU: LayerNorm's scale and shift gradients in bfloat16 are summed over rows in bfloat16.
# Guess: bfloat16 rounds what goes in and out, 2^-9, and sums run in float32: as in linear maps, convolutions, batch
#   and group norm and RMSNorm, whose gradients are all right to 0.2 % beside it. And autocast keeps parameters and
#   their gradients in float32, so a sum of ones is exact.
# Seen (2026-11-28, an Intel Xeon with AVX-512, one thread): the shift's gradient of n rows of ones is n up to 256, and
#   256 from then on: 256 of 8,192, an ordinary batch of tokens. With random gradients (mean 0.5, deviation 1) it is off
#   by 2 % at 256 rows, by 75 % at 8,192, the scale's by 12 %. Under autocast it is the same, in float32 numbers.
#   Each thread has a sum of its own, so two threads give 512: the gradient depends on the number of cores.
# Fails if that changes: the shift's gradient of 8,192 ones above 256, or group norm's or RMSNorm's off by 1 %.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy==2.4.2
"$folder/env/bin/python" - <<'PYTHON'
import torch
from torch import nn


def gradients(make, x, upstream, how):
    layer = make().to({"float64": torch.float64, "bfloat16": torch.bfloat16}.get(how, torch.float32))
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        y = layer(x if how == "autocast" else x.to(layer.weight.dtype))
    y.backward(upstream.to(y.dtype))
    return [p.grad for p in layer.parameters()]


torch.set_num_threads(1)
torch.manual_seed(0)
for rows in (256, 8192):
    x = torch.randn(rows, 64).bfloat16()
    ones, random = torch.ones_like(x), (torch.randn(rows, 64) + 0.5).bfloat16()
    for how in ("bfloat16", "autocast"):
        _, shift = gradients(lambda: nn.LayerNorm(64), x, ones, how)
        print(f"{rows:5} rows, {how}: gradient of LayerNorm's shift {shift[0]:.0f}, in {shift.dtype}")
        assert (shift == 256).all()
    for name, make in {
        "LayerNorm": lambda: nn.LayerNorm(64),
        "GroupNorm": lambda: nn.GroupNorm(1, 64),
        "RMSNorm": lambda: nn.RMSNorm(64),
        "Linear": lambda: nn.Linear(64, 64),
    }.items():
        exact, found = (gradients(make, x, random, how) for how in ("float64", "bfloat16"))
        off = [((b - a).norm() / a.norm()).item() for a, b in zip(exact, found)]
        print(f"{rows:5} rows, {name:9} off by", *(f"{100 * part:.1f} %" for part in off))
        assert (max(off) > 0.5) if (name, rows) == ("LayerNorm", 8192) else (max(off) < 0.01 or name == "LayerNorm")
torch.set_num_threads(2)
_, shift = gradients(lambda: nn.LayerNorm(64), x, ones, "bfloat16")
print(f" 8192 rows, two threads: gradient of LayerNorm's shift {shift[0]:.0f}")
PYTHON
