"""Programs over several devices, arrays whole on every device, and compiled programs on disk."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from stf_jax.heap import keep_freed_memory

DEVICES = "devices"  # the one name of the device axis


def data_parallel(
    fn: Callable[..., Any],
    *,
    in_axes: tuple[int | None, ...],
    out_axes: int | None,
    donate: tuple[int, ...] = (),
    devices: Sequence[Any] | None = None,
    how: str = "pmap",
) -> Any:
    """Return a program that does `fn` on each of `devices` (default: those of all hosts) at once.

    `fn` may use collectives over the axis `DEVICES`. Arrays are those of this host, whatever `how`:
    "pmap", or "shard_map", which is jit over `jax.shard_map`; both give equal results.

    Args:
        fn: what one device does with its share.
        in_axes: of each argument: 0, every array in it has a leading axis of this host's devices,
            which `fn` does not see; None, it is whole on every device (`replicate`).
        out_axes: the same for all that `fn` returns; None: the devices agree on it.
        donate: arguments that are gone afterwards, by number.
        devices: of all hosts together.
        how: see above. Raises ValueError for another.
    """
    if how == "pmap":
        return jax.pmap(
            fn,
            axis_name=DEVICES,
            in_axes=in_axes,
            out_axes=out_axes,
            donate_argnums=donate,
            devices=devices,
        )
    if how != "shard_map":
        raise ValueError(f"how={how!r}: expected 'pmap' or 'shard_map'")
    # Host by host, as the shares of a batch are.
    chosen = sorted(jax.devices(), key=lambda d: d.process_index) if devices is None else devices
    mesh = Mesh(np.array(chosen), (DEVICES,))
    in_specs = tuple(_spec(axis) for axis in in_axes)
    out_specs = _spec(out_axes)

    def on_device(*arguments: Any) -> Any:
        shares = (
            argument if axis is None else jax.tree.map(lambda array: array[0], argument)
            for argument, axis in zip(arguments, in_axes, strict=True)
        )
        found = fn(*shares)
        return found if out_axes is None else jax.tree.map(lambda array: array[None], found)

    program = jax.jit(
        # With check_vma the gradient of a replicated argument is summed over the devices, so that
        # a mean of gradients (pmean) would be too large by their number.
        jax.shard_map(
            on_device, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        ),
        in_shardings=tuple(NamedSharding(mesh, spec) for spec in in_specs),
        out_shardings=NamedSharding(mesh, out_specs),
        donate_argnums=donate,
    )
    if jax.process_count() == 1:
        return program

    def on_hosts(*arguments: Any) -> Any:
        whole = multihost_utils.host_local_array_to_global_array(arguments, mesh, in_specs)
        return multihost_utils.global_array_to_host_local_array(program(*whole), mesh, out_specs)

    return on_hosts


def _spec(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(DEVICES)


def shard(tree: Any) -> Any:
    """Return `tree`, whose arrays have a leading axis of this host's devices, a part on each.

    So placed, a batch is not copied in the call of a `data_parallel` program.
    """
    mesh = Mesh(np.array(jax.local_devices()), (DEVICES,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(DEVICES)))


def replicate(tree: Any) -> Any:
    """Return `tree` whole on every device of this host, as the parallel steps take and give it.

    Without it the first step's input would be placed otherwise than the second's: two compilations.
    """
    mesh = Mesh(np.array(jax.local_devices()), (DEVICES,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def set_up_process(compilation_cache: str) -> None:
    """Do what a script does before its first use of a device; `compilation_cache`: the setting."""
    keep_freed_memory()
    use_compilation_cache(compilation_cache)


def use_compilation_cache(setting: str) -> Path | None:
    """Keep compiled programs in the folder `setting`; return it, or None when switched off.

    "" is the user's own cache folder, "off" nowhere. What is there is run as code: it must be a
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
