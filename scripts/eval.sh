#!/usr/bin/env bash
# Usage: scripts/eval.sh WORKDIR [--checkpoint best|latest|STEP] [--config.KEY=VALUE ...]
set -euo pipefail
workdir=${1:?usage: scripts/eval.sh WORKDIR [--checkpoint best|latest|STEP] [--config.KEY=VALUE ...]}
shift
exec "${PYTHON:-python}" -m stf_jax.main --mode evaluate --workdir "$workdir" "$@"
