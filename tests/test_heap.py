"""Freed memory is kept: a program's second call takes no pages of the system."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or any(Path("/dev").glob("nvidia*")),
    reason="needs glibc's malloc, and no GPU",
)

# Page faults of a call that needs 64 MB, as XLA's programs do; the median of sixty: a small block
# that settles in freed memory makes the heap grow again, in up to seven calls on a busy machine.
PROGRAM = """
import resource
from stf_jax.heap import keep_freed_memory
print(keep_freed_memory())
import jax, jax.numpy as jnp
step = jax.jit(jnp.sin)
x = jnp.arange(2.0**24)
faults = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
for _ in range(60):
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(sorted(b - a for a, b in zip(faults, faults[1:]))[len(faults) // 2])
"""


def result(**variables: str) -> tuple[bool, int]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=own | {"JAX_PLATFORMS": "cpu"} | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


def test_a_second_call_takes_no_new_memory():
    kept, faults = result()
    assert kept
    unset, plain = result(MALLOC_ARENA_MAX="8")
    assert not unset
    assert 10 * faults < plain, (faults, plain)


def test_tunables_of_the_user_stay():
    assert not result(GLIBC_TUNABLES="glibc.malloc.arena_max=8")[0]
