"""The device axis, arrays that are whole on every device, and compiled programs kept on disk."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DEVICES = "devices"  # the one name of the device axis


def replicate(tree: Any) -> Any:
    """Return `tree` whole on every device of this host, as the parallel steps take and give it.

    Without it the first step's input would be placed otherwise than the second's: two compilations.
    """
    mesh = Mesh(np.array(jax.local_devices()), (DEVICES,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


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
