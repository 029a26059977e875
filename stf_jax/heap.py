"""The C library's heap, so that a step on a CPU needs no new memory of the system."""

import ctypes
import os
from pathlib import Path

# Of mallopt(3); -1 and 0 below switch trimming and mapping off.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Let malloc keep freed memory for the next allocation; return whether it does from now on.

    On a CPU, XLA takes each program's temporary memory from malloc at every call. By default glibc
    gives so large a block back when it is freed, and the system clears every page of it again.

    Call it before NumPy is imported: a thread that is there already may have an arena of its own,
    which later threads share, and which takes and gives back large blocks as before.
    Returns False and changes nothing where there is an NVIDIA GPU (its host threads had better not
    share an arena), without glibc, or if the user has set malloc by environment variables.
    """
    set_by_user = any(name.startswith("MALLOC_") for name in os.environ)
    if set_by_user or "GLIBC_TUNABLES" in os.environ or any(Path("/dev").glob("nvidia*")):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl; Windows
        return False
    return all([mallopt(_ARENA_MAX, 1), mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1)])
