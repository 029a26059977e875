#!/usr/bin/env bash
# Usage: scripts/gpu.sh [OUTPUT [OPTION ...]]     measures a GPU in eight minutes
# What matters most comes first; rows are stored as they come and printed as a part ends, so that a
# stop loses nothing. PYTHON must have jax, flax, optax, orbax, safetensors, Pillow, tqdm, tensorboardX
# and, for the comparison with PyTorch, torch; TensorFlow and ml_collections are not needed. OPTIONs
# are scripts/benchmark.py's.
set -uo pipefail
source "$(dirname "$0")/usage.sh" "$@"
cd "$(dirname "$0")/.."
output=${1:-scripts/benchmark_results}
shift || true
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
status=0
begun=$SECONDS
part() { # MINUTES, then parts and options
  local minutes=$1 left
  shift
  left=$((480 - (SECONDS - begun)))
  [ "$left" -ge 15 ] || { echo "no time left for $*"; return; }
  "$python" scripts/benchmark.py --output "$output" --minutes "$minutes" "$@" || status=1
}
# A program compiles in 30 to 60 s (an H200 beside 16 cores); `peer` finds those of `step` in the cache.
part 2 step --dtype bfloat16 --frame-buckets 2 "$@"
part 3.25 peer --dtype bfloat16 --frame-buckets 2 "$@"
part 2.5 drawn-run "$@"
part 1.5 correct "$@"
part 0.75 extraction --dtype bfloat16 "$@"
part 1.5 bfloat16 "$@"
part 1 kernels --dtype bfloat16 "$@"
XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_command_buffer=" part 1 kernels --dtype bfloat16 "$@"
XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_triton_gemm=false" part 1 kernels --dtype bfloat16 "$@"
part 2 largest "$@"
exit "$status"
