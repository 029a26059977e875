#!/usr/bin/env bash
# Usage: scripts/demo.sh [SEED]      default 0
# From nothing to a trained and scored model on drawn people: installs (once), draws the people,
# trains the fusion model and a mean-pooling model alike, and compares both with an untrained colour
# histogram. About 6 minutes on two CPU cores after the installation; a GPU is used if there is one.
set -euo pipefail
cd "$(dirname "$0")/.."
seed=${1:-0}
source scripts/environment.sh
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3}
data=data/demo-$seed
work=runs/demo-$seed

"$PYTHON" -m stf_jax.prepare synthetic --output "$data" --seed "$seed" \
  --identities 300 --train-identities 140 --cameras 3 --min-length 8 --max-length 16 \
  --difficulty 0.35 --occlusion 1 --height 64 --width 32 --preview "$data.png"

run() { # LABEL, then options
  local workdir=$work/$1
  shift
  "$PYTHON" -m stf_jax.main --config configs/demo.py --workdir "$workdir" \
    --config.data.root="$data" --config.seed="$seed" "$@"
  "$PYTHON" -m stf_jax.main --mode evaluate --workdir "$workdir" --checkpoint latest >/dev/null
}
run fusion
run mean-pooling --config.model.frame_attention="()" --config.model.stages="(4,)" \
  --config.model.stage_attention=mean

"$PYTHON" scripts/compare.py --layout "$data" --output "$work" \
  "mean pooling=$work/mean-pooling" "fusion=$work/fusion"
echo "people: $data.png; report: $work/fusion/report/index.html"
