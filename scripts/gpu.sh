#!/usr/bin/env bash
# What one CUDA GPU gives in ten minutes: what it computes right, how fast, and He et al. 2015's networks on CIFAR-10.
#
#     DATA=/path/to/cifar-10 scripts/gpu.sh    # the set in any published form; no network is needed
#     scripts/gpu.sh                           # the set is fetched
#
# The same command goes on where it was stopped. OUT (default: outputs/gpu) holds what is worth taking away: check.json,
# speed.json, runs.tar.gz (run directories without checkpoints, and the report), unfinished.tar.gz (the checkpoints of
# what is not finished, to go on elsewhere), gpu.log. SECONDS_ALL (570) is when it ends, SECONDS_CHECK (60) and
# SECONDS_SPEED (120) the most that these take; SECONDS_ALL counts from the start. PYTHON (python3) is the interpreter.
# TINY=1 tries the script itself, on any machine, on digits where no DATA is given.
set -euo pipefail
SECONDS=0
out=${OUT:-outputs/gpu} all=${SECONDS_ALL:-570} python=${PYTHON:-python3} tiny=${TINY:+--tiny}
mkdir -p "$out" && out=$(cd "$out" && pwd) && data=${DATA:+$(cd "$DATA" && pwd)}
cd "$(dirname "$0")/.."
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
exec > >(tee -a "$out/gpu.log") 2>&1

missing=$("$python" - <<'END'
from importlib.util import find_spec
wanted = {"torch": "torch", "torchvision": "torchvision", "hydra": "hydra-core", "omegaconf": "omegaconf", "tqdm": "tqdm",
          "tensorboard": "tensorboard", "numpy": "numpy", "PIL": "pillow", "scipy": "scipy", "matplotlib": "matplotlib"}
print(" ".join(name for module, name in wanted.items() if find_spec(module) is None))
END
)
if [ -n "$missing" ]; then
    echo "error: not installed for $python: $missing (pip install, or wheels brought along)"
    exit 2
fi
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || echo "no nvidia-smi here"
"$python" -c 'import sys, torch; print("python", sys.version.split()[0], "torch", torch.__version__)'

part() { # a part that has its result is not repeated; one that takes too long or fails does not stop the rest
    [ -s "$out/$1.json" ] || timeout "$2" "$python" scripts/gpu.py "$1" "$out" $tiny "${@:3}" || echo "$1: not whole"
}
echo "== what is right"
part check "${SECONDS_CHECK:-60}"
echo "== how fast"
part speed "$((${SECONDS_SPEED:-120} + 30))" --seconds "${SECONDS_SPEED:-120}"
options=$("$python" scripts/gpu.py options "$out" 2>/dev/null || echo precision=fp32)

echo "== training with $options, cheapest first, until $all seconds are over"
work=(data=cifar10 depth=20,56,110 skip=identity,none)
[ -z "$tiny" ] || work=(data="$([ -n "$data" ] && echo cifar10 || echo digits)" depth=8 skip=identity,none width=4 recipe.iterations=4)
left=$((all - SECONDS - 20))
ended=0
timeout -s TERM -k 20 "$((left > 1 ? left : 1))" "$python" train.py -m experiment=degradation \
    "${work[@]}" seed=0 order=cheapest $options ${data:+data.source="'$data'"} output_dir="'$out/runs'" || ended=$?
case $ended in 0) ;; 124 | 137 | 143) echo "stopped in time; the same command goes on" ;; *) echo "training ended with $ended" ;; esac

echo "== the table"
if compgen -G "$out/runs/degradation/*/config.yaml" > /dev/null; then
    "$python" scripts/report.py "$out/runs/degradation" || true
    tar -C "$out" --exclude='checkpoint*.pt' --exclude='.lock' -czf "$out/runs.tar.gz" runs
    for run in "$out"/runs/degradation/*/; do
        [ -e "$run/summary.json" ] || ! [ -e "$run/checkpoint.pt" ] || echo "${run#"$out/"}checkpoint.pt"
    done > "$out/unfinished"
    rm -f "$out/unfinished.tar.gz"
    [ ! -s "$out/unfinished" ] || tar -C "$out" -czf "$out/unfinished.tar.gz" -T "$out/unfinished"
    rm "$out/unfinished"
fi
"$python" scripts/gpu.py table "$out" || echo "no table: a part is missing"
echo "in $SECONDS s; to take away: $(cd "$out" && ls -- *.json *.tar.gz *.log 2>/dev/null | tr '\n' ' ')"
