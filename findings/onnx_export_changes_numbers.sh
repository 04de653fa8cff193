#!/bin/sh
# torch 2.14.1 with onnxscript 0.7.2, run by onnxruntime 1.32.0: torch.onnx.export gives, without a word, two layers
#   that compute something else.
# Guess: an exported layer agrees with torch to rounding, or the export fails, as it does for RReLU and for adaptive
#   max pooling. Of 43 other kinds of layer tried (norms, pooling, borders, resizing, activations) 41 agree to 3e-6.
# Seen (2026-11-28, float32): AvgPool2d(3, divisor_override=4) divides by 9 again, every value is 4/9 of torch's.
#   LogSigmoid is log(sigmoid(x)), and onnxruntime's sigmoid is right to 1e-8 or so, not relative to its value: -16.23
#   at x = -17, where torch has -17.00, and -inf from -18 on. A loss or a likelihood made from it is infinite.
# Fails if one of them becomes right, or refuses.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy==2.4.2 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
"$folder/env/bin/python" -W ignore - "$folder/layer.onnx" <<'PYTHON'
import logging
import sys

import numpy as np
import onnxruntime
import torch
from torch import nn

logging.disable(logging.WARNING)


def both(layer, x):
    """What torch computes, and what the exported layer does."""
    torch.onnx.export(layer.eval(), (x,), dynamo=True, verbose=False).save(sys.argv[1])
    session = onnxruntime.InferenceSession(sys.argv[1])
    return layer(x).numpy(), session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


torch.manual_seed(0)
x = torch.rand(2, 4, 9, 9) + 1
ours, theirs = both(nn.AvgPool2d(3), x)
assert np.allclose(ours, theirs, rtol=1e-5)
ours, theirs = both(nn.AvgPool2d(3, divisor_override=4), x)
print("AvgPool2d(3, divisor_override=4): exported over torch's", np.unique((theirs / ours).round(4)))
assert np.allclose(theirs, ours * 4 / 9, rtol=1e-5)

x = torch.tensor([1.0, -5.0, -10.0, -12.0, -14.0, -15.0, -16.0, -17.0, -18.0, -19.0, -20.0])
ours, theirs = both(nn.LogSigmoid(), x)
for value, right, given in zip(x, ours, theirs):
    print(f"LogSigmoid({value:.0f}) = {right:.4f}, exported {given:.4f}")
assert np.allclose(theirs[:2], ours[:2], rtol=1e-4) and np.isinf(theirs[-1]) and np.isfinite(ours).all()
PYTHON
