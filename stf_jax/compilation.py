"""Compiled programs kept between runs, so that a second start reaches its first step in seconds."""

import os
from pathlib import Path

import jax


def use_compilation_cache(setting: str) -> Path | None:
    """Keep compiled programs in the folder `setting`; return it, or None when switched off.

    "" is the user's own cache folder, "off" nowhere. What lies there is run as code: it must be a
    folder that only trusted users can write to. Call it before anything is compiled.
    """
    if setting == "off":
        return None
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(setting or os.path.join(base, "stf_jax", "xla"))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    return folder
