#!/usr/bin/env bash
# Usage: scripts/ablate.sh WORKDIR [--seeds 0,1,2] [--only VARIANT ...] [--config FILE]
#          [--config.KEY=VALUE ...]
# Trains and scores every variant of configs/ablation.py (or those named by --only) over seeds, then
# prints one table (mean and standard deviation over the seeds). Goes on where it stopped.
set -euo pipefail
source "$(dirname "$0")/usage.sh" "$@"
workdir=${1:?usage: scripts/ablate.sh WORKDIR [--seeds 0,1,2] [--config FILE] [--config.KEY=VALUE ...]}
shift
source "$(dirname "$0")/interpreter.sh"
exec "$PYTHON" "$(dirname "$0")/ablate.py" --workdir "$workdir" "$@"
