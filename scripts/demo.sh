#!/usr/bin/env bash
# Usage: scripts/demo.sh [SEED]      default 0
# From nothing to a trained and scored model on drawn people: installs (once), draws the people,
# trains a fusion and a mean-pooling model the same way, and compares both with an untrained colour
# histogram. Less than 6 minutes on two CPU cores after the installation; a GPU is used if there is one.
set -euo pipefail
source "$(dirname "$0")/usage.sh" "$@"
cd "$(dirname "$0")/.."
seed=${1:-0}
source scripts/environment.sh ""
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3}
data=data/demo-$seed
work=runs/demo-$seed

mkdir -p data
"$PYTHON" -m stf_jax.prepare synthetic --output "$data" --seed "$seed" \
  --identities 300 --train-identities 140 --cameras 3 --min-length 8 --max-length 16 \
  --difficulty 0.35 --occlusion 1 --height 64 --width 32 --preview "$data.png"

run() { # LABEL, then options
  local workdir=$work/$1
  shift
  $half "$PYTHON" -m stf_jax.main --config configs/demo.py --workdir "$workdir" \
    --config.data.root="$data" --config.seed="$seed" "$@"
  $half "$PYTHON" -m stf_jax.main --mode evaluate --workdir "$workdir" >/dev/null
}
# The other run logs the untrained score: this one takes longer.
fusion() { run fusion --config.train.evaluate_before=False; }
mean_pooling() {
  run mean-pooling --config.model.frame_attention="()" --config.model.stages="(4,)" \
    --config.model.stage_attention=mean
}

# So small a model gains little from a second core: on a CPU each has half of the cores.
half="" cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
if [ "$cores" -ge 2 ] && ! nvidia-smi >/dev/null 2>&1; then
  mkdir -p "$work"
  echo "mean pooling trains in parallel with the fusion model; its log: $work/mean-pooling.log"
  [ "$(nproc 2>/dev/null)" = "$cores" ] && half="taskset -c $((cores / 2))-$((cores - 1))"
  set -m # a process group of its own, which ends with this script
  mean_pooling >"$work/mean-pooling.log" 2>&1 &
  child=$!
  set +m
  trap 'kill -- -$child 2>/dev/null || true' EXIT
  [ -z "$half" ] || half="taskset -c 0-$((cores / 2 - 1))"
  fusion
  wait "$child" || { tail -n 5 "$work/mean-pooling.log" >&2; exit 1; }
  trap - EXIT
else
  fusion
  mean_pooling
fi

"$PYTHON" scripts/compare.py --layout "$data" --output "$work" \
  "mean pooling=$work/mean-pooling" "fusion=$work/fusion"
echo "people: $data.png; report: $work/fusion/report/index.html"
