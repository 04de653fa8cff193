#!/bin/sh
# torch 2.14.1, on a CPU: Kaiming's uniform start, drawn in bfloat16, lets the signal of a deep ReLU network vanish.
# Guess: bfloat16 rounds each weight by up to 2^-9, up or down. Such noise is small beside the weights' own randomness,
#   so the variance stays what He et al. 2015b want, and with it the signal at any depth.
# Seen (2026-11-30; fully connected, without norms, 50 layers, the mean square of what the last ReLU gives, which theory
#   holds at 1): width 576, three seeds: 0.3 to 2.1 drawn in float32, 0.003 to 0.012 in bfloat16. Width 2,304, the fan-in
#   of 256 channels and 3x3: 1.1 and 0.0001, in float16 0.24. Rounding is not it: drawn in float32 and rounded to
#   bfloat16 it is 1.1. What would round up to the upper end, which is not to be given, is given the lower end instead:
#   with one seed, 0.999 of float32 is 0 in bfloat16. So of 800 weights one is -bound that should be +bound, and their
#   mean is -0.0025 of it. No weight shows that, but a layer's weights share it and ReLU's outputs are all positive, so
#   that every unit of a layer is lowered by 0.12 of its deviation, and ReLU lets 0.83 of the variance through, layer
#   after layer: 0.83^50 = 0.0001. Normal starts have no such mean: 0.8. What to do: fill in float32, then round.
# Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy==2.4.2
"$folder/env/bin/python" - <<'PYTHON'
from math import sqrt

import torch
from torch.nn.init import kaiming_normal_, kaiming_uniform_


def rounded(weight, nonlinearity):
    weight.copy_(kaiming_uniform_(weight.float(), nonlinearity=nonlinearity))


STARTS = {
    "uniform, float32": (kaiming_uniform_, torch.float32),
    "uniform, float32, then rounded to bfloat16": (rounded, torch.bfloat16),
    "normal, bfloat16": (kaiming_normal_, torch.bfloat16),
    "uniform, float16": (kaiming_uniform_, torch.float16),
    "uniform, bfloat16": (kaiming_uniform_, torch.bfloat16),
}


def signal(fill, dtype, width, seed):
    """The last layer's mean square, and the weights' mean over their bound; all products in float32."""
    torch.manual_seed(seed)
    x, weight, means = torch.randn(64, width).relu() * sqrt(2), torch.empty(width, width, dtype=dtype), []
    for _ in range(50):
        fill(weight, nonlinearity="relu")
        means.append(weight.double().mean().item() / sqrt(6 / width))
        x = torch.relu(x @ weight.float().T)
    return x.square().mean().item(), sum(means) / len(means)


torch.manual_seed(0)
exact = torch.rand(1_000_000)
torch.manual_seed(0)
coarse = torch.rand(1_000_000, dtype=torch.bfloat16)
assert coarse[exact > 1 - 2**-9].max() == 0 and coarse[(exact > 0.9) & (exact < 0.998)].min() > 0.89

seen = {}
for width, seeds in ((576, 3), (2304, 1)):
    for name, start in STARTS.items():
        seen[width, name] = found = [signal(*start, width, seed) for seed in range(seeds)]
        print(width, name, *(f"{size:.2g} (mean {mean:.5f})" for size, mean in found))
for (width, name), found in seen.items():
    low, high = {
        "uniform, bfloat16": (0, 0.02 if width == 576 else 0.001),
        "uniform, float16": (0.05, 1.5),
    }.get(name, (0.1, 10))
    assert all(low < size < high for size, _ in found), (width, name, found)
print("as described")
PYTHON
