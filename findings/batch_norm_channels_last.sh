#!/bin/sh
# torch 2.14.1, on a CPU: batch norm's statistics in channels_last memory lose bits with the number of values.
# Guess: a memory format is a layout; the same float32 mean and variance are as exact in either.
# Seen (2026-11-27, an AMD EPYC with AVX2, one thread), relative error of the deviation in u = 2^-24:
#   4,096 values a channel: contiguous 0.9 u, channels_last 13 u; 131,072 values (128 images of 32x32): 1.0 u, 246 u.
# So a float32 network in channels_last has about 16 bits in each batch norm of CIFAR, not 24: nearer to fp16 than one
# thinks. Sums run over one value after another there, where contiguous memory is summed in many parts.
# Fails if that changes: contiguous above 4 u, or channels_last under 50 u with 131,072 values.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy==2.4.2
"$folder/env/bin/python" - <<'PYTHON'
import torch

torch.manual_seed(0)
torch.set_num_threads(1)
u, off = 2.0**-24, {}
for images, side in ((64, 8), (128, 32)):
    x = torch.randn(images, 16, side, side)
    exact = (x.double().var((0, 2, 3), correction=0) + 1e-5).rsqrt()
    for layout in (torch.contiguous_format, torch.channels_last):
        given = x.to(memory_format=layout)
        _, _, found = torch.native_batch_norm(given, None, None, None, None, True, 0.1, 1e-5)
        off[images, layout] = ((found.double() / exact - 1).abs().max() / u).item()
        print(f"{images * side * side:7,} values, {str(layout):23} 1 / deviation off by {off[images, layout]:6.1f} u")
assert off[128, torch.contiguous_format] < 4 and off[64, torch.contiguous_format] < 4
assert off[128, torch.channels_last] > 50
PYTHON
