#!/usr/bin/env bash
# Usage: scripts/test_more.sh [PYTEST OPTION ...]
# The tests that scripts/test.sh skips where PyTorch or Chromium is missing: installs PyTorch (the
# extra convert), expects Chromium, checks the types of what imports PyTorch; a skipped test fails.
set -euo pipefail
source "$(dirname "$0")/usage.sh" "$@"
cd "$(dirname "$0")/.."
source scripts/environment.sh dev,convert
"$PYTHON" -m pyright --pythonpath "$PYTHON" --project scripts/pyright_torch.json
STF_NOTHING_MISSING=1 exec "$PYTHON" -m pytest -m "torch or browser" "$@"
