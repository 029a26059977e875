# Sourced by the other scripts: makes sure of a virtual environment, sets PYTHON.
# Usage: source scripts/environment.sh EXTRA      EXTRA of pyproject.toml to install, e.g. dev
# "" is none; it must be given, for bash hands a script's own arguments on to what it sources.
# PYTHON=/path/to/python skips all of it; STF_VENV names another folder than .venv;
# STF_BASE_PYTHON another interpreter to make it with. Without a GPU, STF_TORCH_INDEX=URL of PyTorch's
# CPU builds keeps CUDA (5 GB) out of an environment with the extra convert.

environment_size() { # of an environment with these extras, roughly
  case ,$1, in
    *,convert,*) echo "about 8 GB, ten minutes; PyTorch alone is 5.3 GB where pip's build has CUDA" ;;
    *,cuda,*) echo "about 6.9 GB, five minutes" ;;
    *) echo "about 3.0 GB, a minute or more" ;;
  esac
}

environment() {
  local root extra venv stamp wanted
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  [ -n "${PYTHON:-}" ] && return 0
  extra=${1:-}
  if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then
    extra="${extra:+$extra,}cuda"
  fi
  venv=${STF_VENV:-$root/.venv}
  stamp=$venv/.stf_installed
  source "$root/scripts/base_python.sh"
  base_python 11 13 || return
  [ -x "$venv/bin/python" ] || "$BASE" -m venv "$venv"
  PYTHON=$venv/bin/python
  wanted="$extra $(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum)"
  # An environment with more extras serves a script that wants fewer.
  if ! grep -qxF -- "$wanted" "$stamp" 2>/dev/null; then
    echo "installing stf-jax${extra:+ [$extra]} into $venv, once: $(environment_size "$extra")" >&2
    "$PYTHON" -m pip install --disable-pip-version-check \
      ${STF_TORCH_INDEX:+--extra-index-url "$STF_TORCH_INDEX"} \
      -c "$root/constraints.txt" -e "$root${extra:+[$extra]}"
    echo "$wanted" >>"$stamp"
  fi
}

environment "$@"
export PYTHON
