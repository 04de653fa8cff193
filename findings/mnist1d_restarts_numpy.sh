#!/bin/sh
# mnist1d 0.0.2.post1 (numpy 2.4.6): whether MNIST-1D is made or read decides what comes after the seed.
# Guess: the data set has its own fixed seed (42), so a script that seeds numpy first gives the same error each time,
#   and another error with another seed.
# Seen (2026-11-30; test error of a ridge on 200 random ReLU features, drawn by numpy after the data were got): with the
#   file of the data kept, as the package does by itself, seed 0 gives 63.2 % the first time and 63.4 from then on. With
#   the data made each time (regenerate=True) seeds 0 to 4 all give 63.2: five seeds without any spread. Making the data
#   seeds numpy's and Python's global generators with 42 and leaves them there; reading the file does not.
# What to do: get the data first, then seed; or draw from numpy.random.default_rng(seed), which nobody else can seed.
# Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q mnist1d==0.0.2.post1 numpy==2.4.6 scipy==1.17.1
"$folder/env/bin/python" - "$folder/mnist1d.pkl" <<'PYTHON'
import sys

import numpy as np
from mnist1d.data import get_dataset, get_dataset_args


def error(seed, made, own=False):
    """Test error in % of a ridge on random ReLU features; `made`: the data anew; `own`: a generator of its own."""
    np.random.seed(seed)
    rng = np.random.default_rng(seed)
    data = get_dataset(get_dataset_args(), path=sys.argv[1], download=False, regenerate=made, verbose=False)
    w = rng.standard_normal((40, 200)) if own else np.random.randn(40, 200)
    train, test = (np.maximum(data[part] @ w, 0) for part in ("x", "x_test"))
    weights = np.linalg.solve(train.T @ train + np.eye(200), train.T @ np.eye(10)[data["y"]])
    return 100 * float(np.mean((test @ weights).argmax(1) != data["y_test"]))


first, *later = [error(0, made=False) for _ in range(3)]
read = [error(seed, made=False) for seed in range(5)]
made = [error(seed, made=True) for seed in range(5)]
own = [[error(seed, remade, own=True) for seed in range(5)] for remade in (False, True)]
print("seed 0, the first time and again:", first, *later)
print("seeds 0 to 4, read:", *read, "made:", *made, "a generator of its own:", *own[0])
assert first != later[0] == later[1]
assert len({*read}) > 1 == len({*made})
assert own[0] == own[1] and len({*own[0]}) > 1
print("as described")
PYTHON
