"""The device axis, and arrays that are whole on every device."""

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
