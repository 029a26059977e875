"""Several hosts that work as one: how they find each other, share, gather, agree and end.

Every host runs the same command and feeds its own devices. The first host alone writes files and
prints; what it decides, all do. With one host nothing here costs anything.
"""

import json
import os
import sys
import threading
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from stf_jax.errors import UserError, shortened

Value = TypeVar("Value")

# The options of the command, and the environment variables that replace them.
VARIABLES = {
    "--coordinator": "JAX_COORDINATOR_ADDRESS",
    "--num-processes": "JAX_NUM_PROCESSES",
    "--process-id": "JAX_PROCESS_ID",
}
_BLOCK_BYTES = 2**26  # gathered at a time, of all hosts together
_CONNECT_SECONDS = int(os.environ.get("STF_CONNECT_SECONDS", "300"))
# At the end the others wait for the first host, which may have a report to write.
_END_SECONDS = 3600
_GIVE_UP_SECONDS = 10


def initialize_arguments(
    coordinator: str | None, num_processes: int | None, process_id: int | None, detect: bool
) -> dict[str, Any] | None:
    """Return the arguments of `jax.distributed.initialize`; None for a run on one host.

    The first three are of the command line; `VARIABLES` fill in for those that are None. `detect`
    leaves all of it to jax, which knows SLURM, Open MPI, Kubernetes and TPU pods. Raises UserError
    where something is missing or makes no sense.
    """
    given = dict(zip(VARIABLES, (coordinator, num_processes, process_id), strict=True))
    if detect:
        others = [option for option, value in given.items() if value is not None]
        if others:
            raise UserError(
                f"--distributed and {', '.join(others)}: expected one or the other; --distributed "
                "finds the hosts by itself"
            )
        return {}
    for option, variable in VARIABLES.items():
        if given[option] is None and os.environ.get(variable):
            given[option] = os.environ[variable]
    missing = [f"{o} (or {VARIABLES[o]})" for o, value in given.items() if value is None]
    if len(missing) == len(given):
        return None
    if missing:
        raise UserError(
            f"several hosts: {', '.join(missing)} is missing; expected all three of "
            f"{', '.join(VARIABLES)}, or --distributed alone"
        )
    address = str(given["--coordinator"])
    count, own = (_whole(option, given[option]) for option in ("--num-processes", "--process-id"))
    name, _, port = address.rpartition(":")
    if not (name and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UserError(
            f"--coordinator {address}: expected HOST:PORT, the first host's address and a free "
            "port of it, such as 10.0.0.1:1234"
        )
    if count < 1:
        raise UserError(f"--num-processes {count}: expected 1 or more")
    if not 0 <= own < count:
        raise UserError(
            f"--process-id {own}: expected 0 to {count - 1}, another one on each of the "
            f"{count} hosts"
        )
    return {"coordinator_address": address, "num_processes": count, "process_id": own}


def _whole(option: str, value: Any) -> int:
    try:
        return int(value)
    except ValueError:
        raise UserError(
            f"{option} (or {VARIABLES[option]}) {value}: expected a whole number"
        ) from None


@contextmanager
def joined(arguments: Mapping[str, Any] | None, *, stops_on_notice: bool) -> Iterator[None]:
    """Be one of several hosts inside: connected before jax is used for anything else.

    `arguments` are `initialize_arguments`'; None does nothing. With `stops_on_notice`, SIGTERM is
    reported by `noticed` and ends nothing. Any exception, also for hosts not found or with other
    numbers of devices, ends the process: status 2 and a line for UserError, else 1.
    """
    if arguments is None:
        yield
        return
    try:
        _connect(arguments, stops_on_notice)
        yield
    except UserError as error:
        _leave(2, f"error: {shortened(str(error))}")
    except BaseException:
        trace = traceback.format_exc()
        _leave(1, f"{trace}error: this host stops; another one may have said why")


def _connect(arguments: Mapping[str, Any], stops_on_notice: bool) -> None:
    jax.config.update("jax_enable_preemption_service", stops_on_notice)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # of jax about how it looks for the hosts
            jax.distributed.initialize(
                **arguments,
                initialization_timeout=_CONNECT_SECONDS,
                shutdown_timeout_seconds=_END_SECONDS,
            )
    except (RuntimeError, ValueError, TypeError, OSError, KeyError) as error:
        reason = f"{error or type(error).__name__}".splitlines()[0]
        if arguments:
            given = " ".join(f"{name}={value}" for name, value in arguments.items())
            hint = (
                f"{given}: expected the same address and number on every host, another id on each, "
                "and a free port of the first host that the others reach"
            )
        else:
            hint = (
                "expected a task of SLURM or Open MPI, a Kubernetes job or a TPU pod; give "
                f"{', '.join(VARIABLES)} instead of --distributed"
            )
        raise UserError(f"several hosts: cannot connect ({reason}); {hint}") from error
    counts = Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{n} devices on host {host}" for host, n in sorted(counts.items()))
        raise UserError(f"several hosts: found {found}; expected the same number on each")


def _leave(status: int, message: str) -> None:
    """Print `message` and end the process: in step with the others if all do so, else alone.

    An ordinary exit would wait for hosts that wait for this one.
    """
    with suppress(OSError, ValueError):  # whoever read the output may be gone
        sys.stdout.flush()
        print(message, file=sys.stderr, flush=True)
    end = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    end.start()
    end.join(_GIVE_UP_SECONDS)
    os._exit(status)


def several() -> bool:
    """Whether there is more than one host."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the host that writes and prints."""
    return jax.process_index() == 0


def share(num_devices: int) -> slice:
    """Return this host's part of the axis of all `num_devices` devices, which is in host order."""
    part = num_devices // jax.process_count()
    return slice(jax.process_index() * part, (jax.process_index() + 1) * part)


def combine(array: np.ndarray, how: np.ufunc) -> np.ndarray:
    """Return `how` (np.add, np.fmax ...) over all hosts' `array` [n ...] of one shape and dtype.

    In that dtype and host by host, so that all have the same bits. All hosts have to call it.
    """
    if not several():
        return array
    rows = np.atleast_1d(array)
    result = np.empty_like(rows)
    size = max(1, _BLOCK_BYTES // max(1, rows[:1].nbytes * jax.process_count()))
    for start in range(0, len(rows), size):
        block = slice(start, start + size)
        how.reduce(_gather(rows[block]), axis=0, out=result[block])
    return result.reshape(array.shape)


def _gather(array: np.ndarray) -> np.ndarray:
    """[hosts, ...] of each host's `array`; as bytes, for jax would make float64 float32."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    found = np.ascontiguousarray(multihost_utils.process_allgather(flat))
    return found.view(array.dtype).reshape(jax.process_count(), *array.shape)


def from_first(make: Callable[[], Value]) -> Value:
    """Return on every host what `make` returns on the first, the only one to call it.

    The value is of what JSON has (numbers keep every bit). A UserError there is one everywhere. All
    hosts have to call it, and wait.
    """
    if not several():
        return make()
    message = b""
    if is_first():
        try:
            answer: dict[str, Any] = {"value": make()}
        except UserError as error:
            answer = {"error": str(error)}
        message = json.dumps(answer).encode()
    length = int(_gather(np.array([len(message)]))[0, 0])
    padded = np.zeros(-(-length // 4096) * 4096, np.uint8)  # few sizes: each is compiled
    padded[: len(message)] = np.frombuffer(message, np.uint8)
    answer = json.loads(_gather(padded)[0, :length].tobytes())
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["value"]


def check_same(values: Mapping[str, int | str | bytes]) -> None:
    """Raise UserError, on every host, unless all hosts have the same values under these names."""
    if not several():
        return
    texts = (v if isinstance(v, bytes) else str(v).encode() for v in values.values())
    found = _gather(np.array([zlib.crc32(text) for text in texts], np.int64))
    differing = [
        f"several hosts: {name}: host {host} differs from the first host; expected the same "
        "command, code, data and workdir on every host"
        for k, name in enumerate(values)
        for host in range(1, len(found))
        if found[host, k] != found[0, k]
    ]
    if differing:
        raise UserError("\n".join(differing))


def noticed(count: int) -> bool:
    """Whether all hosts are to stop now: one of them got SIGTERM (preemption).

    All hosts have to call it at every step, with 0, 1, 2 ...; they get True at the same one.
    """
    # As Orbax's CheckpointManager.reached_preemption, which only the first host has.
    return several() and multihost_utils.reached_preemption_sync_point(count)
