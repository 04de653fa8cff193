#!/usr/bin/env bash
# What one CUDA GPU gives in ten minutes: what it computes right, how fast, and He et al. 2015's networks on CIFAR-10.
#
#     DATA=/path/to/cifar-10 scripts/gpu.sh    # the set in any published form; no network is needed
#     scripts/gpu.sh                           # the set is fetched
#
# The same command goes on where it was stopped: its work is in WORK (outputs/gpu). OUT (the same) gets what is worth
# taking away: check.json, speed.json, runs.tar.gz (run directories without checkpoints, and the report),
# unfinished.tar.gz (the checkpoints of what is not finished, to go on elsewhere), gpu.log. SECONDS_ALL (570) is when it
# ends, SECONDS_CHECK (60) and SECONDS_SPEED (120) the most that these take; SECONDS_ALL counts from the start. PYTHON
# (python3) is the interpreter; depthlab need not be installed, what it needs must be. TINY=1 tries the script itself,
# on any machine, on digits where no DATA is given.
#
# Where only small files can be sent: data/cifar10.npz, which `python train.py` makes, in pieces by
# `split -b 50M data/cifar10.npz pieces/cifar10.npz.part`; then DATA=pieces, whose pieces are joined.
set -euo pipefail
SECONDS=0
all=${SECONDS_ALL:-570} python=${PYTHON:-python3} tiny=${TINY:+--tiny}
data=${DATA:+$(realpath -e "$DATA")}
out=${OUT:+$(realpath -m "$OUT")}
work=${WORK:+$(realpath -m "$WORK")}
cd "$(dirname "$0")/.."
work=${work:-$PWD/outputs/gpu} out=${out:-$PWD/outputs/gpu}
mkdir -p "$work" "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
exec 3>&1 > >(trap '' TERM INT; exec tee -a "$work/gpu.log" >&3) 2>&1
told=$! child=

during() { # runs a command such that TERM and Ctrl-C reach it at once
    "$@" &
    child=$!
    wait "$child" || { status=$? && child= && return "$status"; }
    child=
}

ends() { # what there is goes to OUT, however this ends
    status=$? && trap - EXIT TERM INT
    for file in "$work"/{check,speed}.json "$work"/{runs,unfinished}.tar.gz; do
        [ "$work" = "$out" ] || ! [ -e "$file" ] || cp "$file" "$out"
    done
    echo "in $SECONDS s; to take away: $(cd "$out" && ls -- *.json *.tar.gz 2>/dev/null | tr '\n' ' ')gpu.log"
    exec >&- 2>&- && wait "$told" || true
    [ "$work" = "$out" ] || cp "$work/gpu.log" "$out"
    exit "$status"
}
trap ends EXIT
trap '[ -z "$child" ] || { kill -TERM "$child"; wait "$child" || true; }; exit 143' TERM INT

missing=$("$python" - <<'END'
from importlib import import_module
names = {"torch": "torch", "torchvision": "torchvision", "antlr4": "antlr4-python3-runtime", "yaml": "pyyaml",
         "omegaconf": "omegaconf", "hydra": "hydra-core", "joblib": "joblib", "tqdm": "tqdm", "numpy": "numpy",
         "hydra_plugins.hydra_joblib_launcher": "hydra-joblib-launcher", "safetensors": "safetensors",
         "tensorboard": "tensorboard", "PIL": "pillow", "scipy": "scipy", "matplotlib": "matplotlib"}
for module, name in names.items():
    try:
        import_module(module)
    except ImportError:
        print(name, end=" ")
END
)
if [ -n "$missing" ]; then
    echo "error: not installed for $python: ${missing% } (pip install, or wheels brought along)"
    exit 2
fi
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || echo "no nvidia-smi here"
"$python" -c 'import sys, torch; print("python", sys.version.split()[0], "torch", torch.__version__)'
if [ -z "$tiny" ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "error: this torch sees no GPU (TINY=1 tries the script without one)"
    exit 2
fi

if [ -n "$data" ] && compgen -G "$data/*.partaa" > /dev/null; then
    for first in "$data"/*.partaa; do
        whole=$work/data/$(basename "${first%.partaa}")
        mkdir -p "$work/data" && cat "${first%aa}"?? > "$whole.begun" && mv "$whole.begun" "$whole"
    done
    data=$work/data
fi
[ -n "$tiny" ] && [ -z "$data" ] || "$python" scripts/gpu.py data "$work" --source "$data" || exit 2

part() { # one that has its result is not repeated; one that takes too long or fails has what it found up to there
    [ -s "$work/$1.json" ] || during timeout "$2" "$python" scripts/gpu.py "$1" "$work" $tiny "${@:3}" || echo "$1: not whole"
    [ ! -s "$work/$1.begun.json" ] || mv "$work/$1.begun.json" "$work/$1.json"
}
echo "== what is right"
part check "${SECONDS_CHECK:-60}"
echo "== how fast"
part speed "$((${SECONDS_SPEED:-120} + 30))" --seconds "${SECONDS_SPEED:-120}"
table=$("$python" scripts/gpu.py table "$work") || table="no table: a part is missing
options: precision=fp32"
echo "$table"
options=${table##*options: }

echo "== training with $options, cheapest first, until $all seconds are over"
words=(data=cifar10 depth=20,56,110 skip=identity,none)
[ -z "$tiny" ] || words=(data="$([ -n "$data" ] && echo cifar10 || echo digits)" depth=8 skip=identity,none width=4 recipe.iterations=4)
left=$((all - SECONDS - 45)) # for saving, the archives and the report
ended=0
during timeout -s TERM -k 20 "$((left > 1 ? left : 1))" "$python" train.py -m experiment=degradation \
    "${words[@]}" seed=0 order=cheapest $options ${data:+data.source="'$data'"} output_dir="'$work/runs'" || ended=$?
case $ended in 0) ;; 124 | 137 | 143) echo "stopped in time; the same command goes on" ;; *) echo "training ended with $ended" ;; esac

echo "== the runs"
if compgen -G "$work/runs/degradation/*/config.yaml" > /dev/null; then
    for run in "$work"/runs/degradation/*/; do
        [ -e "$run/summary.json" ] || ! [ -e "$run/checkpoint.pt" ] || echo "${run#"$work/"}checkpoint.pt"
    done > "$work/unfinished"
    rm -f "$work/unfinished.tar.gz"
    [ ! -s "$work/unfinished" ] || tar -C "$work" -czf "$work/unfinished.tar.gz" -T "$work/unfinished"
    rm "$work/unfinished"
    archive() { tar -C "$work" --exclude='checkpoint*.pt' --exclude='.lock' -czf "$work/runs.tar.gz" runs; }
    archive
    "$python" scripts/report.py "$work/runs/degradation" && archive || echo "no report"
fi
