#!/usr/bin/env bash
# Usage: scripts/test.sh [PYTEST OPTION ...]     installs, then lint, types and tests (two files at a
# time; -n 0 for one).
# What needs more than pip install is skipped and reported: PyTorch (scripts/test_more.sh installs it),
# Chromium. STF_NOTHING_MISSING=1 makes a skipped test a failed one.
set -euo pipefail
source "$(dirname "$0")/usage.sh" "$@"
cd "$(dirname "$0")/.."
source scripts/environment.sh dev
"$PYTHON" -m ruff format --check .
"$PYTHON" -m ruff check .
"$PYTHON" -m pyright --pythonpath "$PYTHON"
"$PYTHON" -m pytest -n 2 --dist loadfile "$@"
