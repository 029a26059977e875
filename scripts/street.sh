#!/usr/bin/env bash
# Usage: scripts/street.sh [SEED]     default 0; runs scripts/demo.sh SEED first if need be
# Real pedestrians: fetches the clip, cuts it with `prepare mot`, scores the demo's two models on it as
# they are and fine-tuned on the five training people, next to an untrained colour histogram. The split
# is described in scripts/street/README.md. STREET_CLIP=FILE uses a clip that is there already.
set -euo pipefail
source "$(dirname "$0")/usage.sh" "$@"
cd "$(dirname "$0")/.."
seed=${1:-0}
source scripts/environment.sh ""
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3}
demo=runs/demo-$seed
work=runs/street-$seed

clip=$(scripts/street/fetch_clip.sh data/street-clip)
scripts/street/prepare.sh "$clip" data/street
[ -f "$demo/fusion/scores.json" ] && [ -f "$demo/mean-pooling/scores.json" ] ||
  scripts/demo.sh "$seed"

run() { # the demo's model, then options
  local workdir=$work/$1
  "$PYTHON" -m stf_jax.main --config configs/street.py --workdir "$workdir" \
    --config.data.root=data/street --config.pretrained="$demo/$1" --config.seed="$seed" "${@:2}"
  "$PYTHON" -m stf_jax.main --mode evaluate --workdir "$workdir" >/dev/null
}
run mean-pooling --config.model.frame_attention="()" --config.model.stages="(4,)" \
  --config.model.stage_attention=mean
run fusion
"$PYTHON" scripts/compare.py --layout data/street --output "$work" \
  "mean pooling=$work/mean-pooling" "fusion=$work/fusion"
echo '("before training" is the demo'"'"'s model as it is)'
