#!/usr/bin/env bash
# Usage: scripts/real_people.sh DIR [OPTION ...]     DIR: PKU-Reid's folder of pictures
# Real people, ten splits, both directions, each also centred by camera: an untrained histogram, the
# demo's model as it is (where scripts/demo.sh 0 was run), a frozen MobileNetV2 of ImageNet, and that
# fine-tuned on half of the people with mean pooling and with the fusion. Options: --config
# configs/pku_reid_drawn.py (from the demo's model, which is trained if need be), --splits N,
# --models NAME ... (also "late fusion", "without attention", "intra alone", "inter alone"), --jobs N,
# --config.KEY=VALUE. Stopped, the same command resumes.
set -euo pipefail
source "$(dirname "$0")/usage.sh" "$@"
cd "$(dirname "$0")/.."
pictures=${1:?usage: scripts/real_people.sh DIR [OPTION ...]}
shift
source scripts/environment.sh ""
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3}

[ -f data/pku-reid/partitions_00.pkl ] ||
  "$PYTHON" -m stf_jax.prepare pku-reid --source "$pictures" --output data/pku-reid
[ -f data/mobilenet_v2.safetensors ] || scripts/mobilenet_weights.sh data/mobilenet_v2.safetensors
case " $* " in
  *pku_reid_drawn*) [ -f runs/demo-0/mean-pooling/scores.json ] || scripts/demo.sh 0 ;;
esac
exec "$PYTHON" scripts/real_people.py "$@"
