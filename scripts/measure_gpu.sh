#!/usr/bin/env bash
# Usage: scripts/measure_gpu.sh FOLDER [MINUTES] [OPTION ...]
# For a GPU that one has for minutes (8 unless given): runs the parts of scripts/benchmark.py that only
# a GPU can answer, what matters most first. Each result is in FOLDER as soon as it is there; the same
# command continues with the part that was under way. Options are those of scripts/benchmark.py
# (--size small: a trial on a CPU). PYTHON=python3 uses an environment as it is.
set -euo pipefail
source "$(dirname "$0")/usage.sh" "$@"
cd "$(dirname "$0")/.."
folder=${1:?usage: scripts/measure_gpu.sh FOLDER [MINUTES] [OPTION ...]}
minutes=${2:-8}
shift $(($# < 2 ? $# : 2))
source scripts/environment.sh convert
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=3
mkdir -p -- "$folder"
end=$((SECONDS + minutes * 60))

# Name, XLA's flags (- for none), and the part with its options.
while read -r name flags part; do
  left=$((end - SECONDS))
  [ -e "$folder/$name.done" ] && continue
  if [ "$left" -lt 20 ]; then
    echo "left: $name and what follows it; the same command continues"
    exit 0
  fi
  set_flags=()
  [ "$flags" = - ] || set_flags=("XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }$flags")
  echo "== $name"
  # shellcheck disable=SC2086 # words of a part
  if env "${set_flags[@]}" timeout -k 10 "$left" \
    "$PYTHON" scripts/benchmark.py $part --output "$folder" "$@" </dev/null | tee "$folder/$name.txt"; then
    touch "$folder/$name.done"
  fi
done <<'PARTS'
right           -                                                  correct
step            -                                                  step --dtype bfloat16
kernels         -                                                  kernels --dtype bfloat16
kernels-120     -                                                  kernels --dtype bfloat16 --tracklets 8
peer            -                                                  peer --dtype bfloat16
extraction      -                                                  extraction --dtype bfloat16
no-graphs       --xla_gpu_enable_command_buffer=                   kernels --dtype bfloat16
no-triton       --xla_gpu_enable_triton_gemm=false                 kernels --dtype bfloat16
cudnn-fusions   --xla_gpu_experimental_enable_conv_fusion=true     kernels --dtype bfloat16
runs            -                                                  drawn-run
bfloat16        -                                                  bfloat16
largest         -                                                  largest
PARTS
