#!/usr/bin/env bash
# Cuts the street clip into the layout: 120 tracklets, 1,813 pictures of 12 people, 4 cameras.
#
#   scripts/street/prepare.sh CLIP OUTPUT       PYTHON=... chooses the interpreter
set -euo pipefail

usage="usage: prepare.sh CLIP OUTPUT"
clip=${1:?$usage}
output=${2:?$usage}
tracks=$(dirname -- "${BASH_SOURCE[0]}")/tracks

"${PYTHON:-python}" -m stf_jax.prepare mot \
  --camera "1:$clip:$tracks/cam1.txt" --camera "2:$clip:$tracks/cam2.txt" \
  --camera "3:$clip:$tracks/cam3.txt" --camera "4:$clip:$tracks/cam4.txt" \
  --train-ids 1,3,5,7,9 --query-cameras 2 \
  --stride 2 --max-length 40 --interpolated-confidence 0.3 \
  --output "$output"
