"""Readers in C that may crash or take any amount of memory and time: in a process of their own."""

import os
import subprocess
import sys
from collections.abc import Sequence

MEMORY = 4 * 2**30  # address space: of which libraries take up to one
SECONDS = 60

_LIMITED = """
import contextlib, resource
for what, most in ((resource.RLIMIT_AS, {memory}), (resource.RLIMIT_CORE, 0)):
    with contextlib.suppress(OSError, ValueError):  # a system that has no such limit
        resource.setrlimit(what, (most, most))
"""


def run_limited(
    program: str, arguments: Sequence[str], *, memory: int = MEMORY, seconds: float = SECONDS
) -> bytes:
    """What a program in Python writes to standard output.

    Args:
        program: its text.
        arguments: `sys.argv[1:]` of it.
        memory: bytes of address space, at most.
        seconds: that it may take.

    Raises:
        ValueError: it crashed, ran out of time, or ended with a message, which is the error's text.
    """
    command = [sys.executable, "-P", "-c", _LIMITED.format(memory=memory) + program, *arguments]
    # Each thread of OpenBLAS would take address space; these readers compute nothing.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"not read within {seconds:g} seconds") from None
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip() if done.returncode == 1 else ""
        raise ValueError(message or "the reader crashed on it")
    return done.stdout
