#!/usr/bin/env bash
# Usage: scripts/compile_for_gpu.sh [--only NAME ...] [--all] [--list] [--target h100] [--jobs N]
# Compiles training, extraction, re-ranking and an exported file for an NVIDIA GPU, without one
# (scripts/compile_for_gpu.py). Installs the GPU build of JAX into .venv-gpu (once; 4.6 GB), with
# Python 3.12 or 3.13: STF_BASE_PYTHON picks the interpreter, STF_GPU_VENV another folder.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/base_python.sh
base_python 12 13
"$BASE" scripts/compile_for_gpu.py --check "$@"
case " $* " in *" -h "* | *" --help "*) exit 0 ;; esac
venv=${STF_GPU_VENV:-.venv-gpu}
wanted=$(cksum <scripts/gpu_requirements.txt)
if [ "$(cat "$venv/.stf_installed" 2>/dev/null)" != "$wanted" ]; then
  echo "installing the GPU build of JAX into $venv, once: 4.6 GB, a few minutes" >&2
  "$BASE" -m venv "$venv"
  "$venv/bin/python" -m pip install --disable-pip-version-check \
    -r scripts/gpu_requirements.txt
  echo "$wanted" >"$venv/.stf_installed"
fi
exec "$venv/bin/python" scripts/compile_for_gpu.py "$@"
