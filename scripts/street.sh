#!/usr/bin/env bash
# Usage: scripts/street.sh [SEED]     default 0; runs scripts/demo.sh SEED first if need be
# Real pedestrians: fetches the clip, cuts it with `prepare mot`, scores the demo's model on it as it
# is and fine-tuned on the five training people, next to an untrained colour histogram. The split is
# described in scripts/street/README.md. STREET_CLIP=FILE uses a clip that is there already.
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
[ -f "$demo/fusion/scores.json" ] || scripts/demo.sh "$seed"

"$PYTHON" -m stf_jax.main --config configs/street.py --workdir "$work/fine-tuned" \
  --config.data.root=data/street --config.pretrained="$demo/fusion" --config.seed="$seed"
"$PYTHON" -m stf_jax.main --mode evaluate --workdir "$work/fine-tuned" >/dev/null
"$PYTHON" scripts/compare.py --layout data/street --output "$work" "fine-tuned=$work/fine-tuned"
echo '("fine-tuned, before training" is the demo'"'"'s model as it is)'
