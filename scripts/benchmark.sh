#!/usr/bin/env bash
# Usage: scripts/benchmark.sh PART ... [--minutes M] [OPTION ...]     all of them: PART is all
# Installs, measures (scripts/benchmark.py --help), writes a file to scripts/benchmark_results.
# PYTHON=python3 uses an environment that has jax, flax, optax and torch; there the parts that read
# pictures are not run. On a GPU, three calls of at most ten minutes measure it all:
#   scripts/benchmark.sh packing step layers extraction bfloat16 ranking --minutes 9
#   scripts/benchmark.sh peer --minutes 9
#   scripts/benchmark.sh memory cache devices input end-to-end --minutes 9
set -euo pipefail
cd "$(dirname "$0")/.."
# Wrong parts and options, and --help, are handled before anything is installed.
source scripts/base_python.sh
base_python 11 13
"$BASE" scripts/benchmark.py --check "$@"
case " $* " in *" -h "* | *" --help "*) exit 0 ;; esac
# Only two parts compare with PyTorch, which is larger than all the rest.
extra=""
case " $* " in *" peer "* | *" layers "* | *" all "*) extra=convert ;; esac
source scripts/environment.sh "$extra"
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3}
PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} exec "$PYTHON" scripts/benchmark.py "$@"
