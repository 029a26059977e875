# Sourced by scripts that install nothing: sets PYTHON to, in this order, what it is already, the
# active environment's, the one that the other scripts made in .venv, or what `python` is.
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python
  made=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin/python
  if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$made" ]; then PYTHON=$made; fi
fi
if ! "$PYTHON" -c 'from importlib.util import find_spec as f; exit(not (f("jax") and f("absl")))'; then
  echo "error: $PYTHON has no stf-jax; install it (README, Manual installation), or set PYTHON" >&2
  exit 2
fi
