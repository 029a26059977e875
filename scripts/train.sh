#!/usr/bin/env bash
# Usage: scripts/train.sh CONFIG WORKDIR [--config.KEY=VALUE ...]    trains, evaluating as it goes
set -euo pipefail
source "$(dirname "$0")/usage.sh" "$@"
config=${1:?usage: scripts/train.sh CONFIG WORKDIR [--config.KEY=VALUE ...]}
workdir=${2:?usage: scripts/train.sh CONFIG WORKDIR [--config.KEY=VALUE ...]}
shift 2
source "$(dirname "$0")/interpreter.sh"
exec "$PYTHON" -m stf_jax.main --config "$config" --workdir "$workdir" "$@"
