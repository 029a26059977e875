#!/usr/bin/env bash
# Usage: scripts/real_people.sh DIR [OPTION ...]     DIR: PKU-Reid's folder of pictures
# Real people, ten splits, both directions, each also centred by camera: an untrained histogram, the
# demo's model as it is (where scripts/demo.sh 0 was run), a frozen MobileNetV2 of ImageNet, and that
# fine-tuned on half of the people with mean pooling, late fusion and fusion. Options:
# --splits N, --config.KEY=VALUE. Stopped, the same command resumes.
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
exec "$PYTHON" scripts/real_people.py --workdir runs/real-people "$@"
