"""Freed memory is kept: a program's second call takes no pages of the system."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc")

# Page faults of a call that needs 64 MB, as XLA's programs do: from a thread, freed at its end.
PROGRAM = """
import resource
import jax, jax.numpy as jnp
from stf_jax.heap import keep_freed_memory
print(keep_freed_memory())
step = jax.jit(lambda x: jnp.sort(jnp.sin(x)).sum())
x = jnp.arange(2.0**24)
faults = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
for _ in range(5):
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[-2])
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
    assert faults < 1000, faults


@pytest.mark.parametrize("variable", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_what_the_user_has_set_stays(variable):
    value = "glibc.malloc.arena_max=8" if variable == "GLIBC_TUNABLES" else "8"
    kept, faults = result(**{variable: value})
    assert not kept
    assert faults > 10_000, faults
