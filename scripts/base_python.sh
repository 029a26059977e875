# Sourced: `base_python OLDEST NEWEST` sets BASE to an interpreter that environments are made with,
# such as `base_python 11 13` for Python 3.11 to 3.13. STF_BASE_PYTHON names one; else the first
# of python3 and python3.NEWEST ... python3.OLDEST that is right and has venv.
base_python() {
  local oldest=$1 newest=$2 minor names
  names=python3
  for ((minor = newest; minor >= oldest; minor--)); do names+=" python3.$minor"; done
  for BASE in ${STF_BASE_PYTHON:-$names}; do
    [ -n "${STF_BASE_PYTHON:-}" ] && return 0
    "$BASE" -c "import sys, venv, ensurepip
sys.exit(not (3, $oldest) <= sys.version_info[:2] <= (3, $newest))" 2>/dev/null && return 0
  done
  echo "error: no Python 3.$oldest to 3.$newest with venv found (Debian, Ubuntu: apt install" \
    "python3-venv); install one or set STF_BASE_PYTHON" >&2
  return 2
}
