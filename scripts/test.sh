#!/usr/bin/env bash
# Usage: scripts/test.sh [PYTEST OPTION ...]     installs, then lint, types and tests
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh dev
"$PYTHON" -m ruff format --check .
"$PYTHON" -m ruff check .
"$PYTHON" -m pyright --pythonpath "$PYTHON"
"$PYTHON" -m pytest "$@"
