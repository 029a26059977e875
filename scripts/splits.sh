#!/usr/bin/env bash
# Usage: scripts/splits.sh CONFIG WORKDIR [--config.KEY=VALUE ...]
# Trains and scores every split of a data set (partitions_00.pkl, partitions_01.pkl ... in its root)
# and prints the mean and deviation over the splits. Goes on where it stopped.
set -euo pipefail
source "$(dirname "$0")/usage.sh" "$@"
usage="usage: scripts/splits.sh CONFIG WORKDIR [--config.KEY=VALUE ...]"
config=${1:?$usage}
workdir=${2:?$usage}
shift 2
source "$(dirname "$0")/interpreter.sh"
exec "$PYTHON" "$(dirname "$0")/splits.py" --config "$config" --workdir "$workdir" "$@"
