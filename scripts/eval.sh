#!/usr/bin/env bash
# Usage: scripts/eval.sh WORKDIR [--checkpoint best|latest|STEP] [--config.KEY=VALUE ...]
set -euo pipefail
source "$(dirname "$0")/usage.sh" "$@"
workdir=${1:?usage: scripts/eval.sh WORKDIR [--checkpoint best|latest|STEP] [--config.KEY=VALUE ...]}
shift
source "$(dirname "$0")/interpreter.sh"
exec "$PYTHON" -m stf_jax.main --mode evaluate --workdir "$workdir" "$@"
