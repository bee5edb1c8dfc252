#!/usr/bin/env bash
# Everything that a quarter of an hour of one GPU is good for, each part under its own time limit:
#   chain   pretraining and SFT of both models of config/gpu/short.yaml, beside the checks
#   checks  kernels, bits, masks, resuming, waiting, memory        (benchmarks.device.parts checks)
#   limits  what the device and this project's operations reach    (benchmarks.device.parts limits)
#   scale   the rest of config/gpu/short.yaml: RL, masks, evaluation, tables and figures
#   bench   python -m benchmarks.gpu, in what time is left
#
# Here, once, what a machine without internet lacks; there; and here again:
#   bash benchmarks/device/wheels.sh
#   RLSUBNET_COMMIT=$(git rev-parse HEAD) OUT=DIR bash benchmarks/device/day.sh SECONDS
#   python -m benchmarks.device.results unpack DIR...
#
# It needs Python 3.12 with torch and transformers, and nothing installed of this project. Again with
# the time that is left, into another DIR: DAY_PARTS=bench. On a CPU, in a small size: DAY_DEVICE=cpu. Limits in
# seconds: DAY_CHAIN, DAY_CHECKS, DAY_LIMITS, DAY_SCALE; DAY_START for checks and limits to start in.
set -u -o pipefail
BUDGET=${1:?seconds} SECONDS=0
cd "$(dirname "$0")/../.."
OUT=${OUT:-$PWD/work/device} DEVICE=${DAY_DEVICE:-cuda}
TMP=$(mktemp -d)
mkdir -p "$OUT" "$TMP/bin" "$TMP/site"
exec > >(tee -a "$OUT/day.log") 2>&1

# Seconds of a part: its own limit, or what is left before the last packing.
limit() {
  local left=$((BUDGET - SECONDS - 10))
  echo $(($1 < left ? $1 : left))
}
begins() {
  [[ " ${DAY_PARTS:-chain checks limits scale bench} " == *" $1 "* && $(limit 999) -gt 5 ]] || return 1
  echo "[$SECONDS s] $1"
}

# A job computes in one thread, since jobs run side by side.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
export CUBLAS_WORKSPACE_CONFIG=:4096:8 MPLBACKEND=Agg
export TORCHINDUCTOR_CACHE_DIR=$TMP/inductor TRITON_CACHE_DIR=$TMP/triton
if [ -d wheels ]; then
  python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$TMP/site" wheels/*.whl
fi
export PYTHONPATH=$TMP/site:$PWD/workflow:$PWD${PYTHONPATH:+:$PYTHONPATH}

# Rules call `rlsubnet`: here a few lines that hand over to a server that has imported all.
printf '#!/bin/sh\nexec python3 -S -I "%s" run "%s" "$@"\n' \
  "$PWD/benchmarks/device/warm.py" "$TMP/warm" > "$TMP/bin/rlsubnet"
chmod +x "$TMP/bin/rlsubnet"
export PATH=$TMP/bin:$PATH
python3 -m benchmarks.device.warm serve "$TMP/warm" &
server=$!
until [ -S "$TMP/warm" ] || ! kill -0 $server 2> /dev/null; do sleep 0.1; done
echo "[$SECONDS s] warm"

pack() { python3 -m benchmarks.device.results pack "$OUT"; }
# Told to end while it packs, it ends behind that.
(
  trap exit TERM
  while sleep 30 > /dev/null 2>&1 & wait $!; do pack; done
) &
packer=$!
finish() {
  kill $packer $server 2> /dev/null
  wait $packer $server 2> /dev/null
  pack
  echo "[$SECONDS s] done"
  rm -rf "$TMP"
}
trap finish EXIT

config=(config/gpu/short.yaml)
[ "$DEVICE" = cuda ] || config+=(benchmarks/device/miniature.yaml)
# Files of the scale, all by default, in so many seconds.
scale() {
  local seconds=$1
  shift
  timeout -k 10 "$seconds" python3 -m snakemake --configfile "${config[@]}" --cores all \
    --quiet rules host --keep-going --nolock --resources gpu_slots="${DAY_SLOTS:-6}" \
    -- "$@" >> "$OUT/snakemake.log" 2>&1
  echo "[$SECONDS s] snakemake ended with $?"
}
parts() { # what, seconds, jobs
  timeout -k 10 $(($2 + ${DAY_START:-20})) python3 -m benchmarks.device.parts "$1" --device "$DEVICE" \
    --seconds "$2" --jobs "$3" --out "$OUT/$1.jsonl" 2> "$TMP/$1.err" \
    || grep -A 20 Traceback "$TMP/$1.err" | head -n 60
}

chain=
if begins chain; then
  scale "$(limit "${DAY_CHAIN:-150}")" work/short/runs/{sft,sft_l}/final &
  chain=$!
fi
if begins checks; then parts checks "$(limit "${DAY_CHECKS:-80}")" "${DAY_JOBS:-8}"; fi
[ -z "$chain" ] || wait $chain
# Nothing else is on the GPU while it is measured.
if begins limits; then parts limits "$(limit "${DAY_LIMITS:-45}")" 1; fi
if begins scale; then scale "$(limit "${DAY_SCALE:-290}")"; fi
if begins bench; then
  miniature=()
  [ "$DEVICE" = cuda ] || miniature=(--miniature)
  timeout -k 10 "$(limit 999)" python3 -m benchmarks.gpu "${miniature[@]}" --repeats 3 \
    --out "$OUT/bench.md" 2> "$TMP/bench.err" || tail -n 20 "$TMP/bench.err"
fi
