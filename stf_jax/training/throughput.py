"""How fast training goes: frames a second, and the share of the time spent waiting for data."""

import time
from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from stf_jax import hosts

Item = TypeVar("Item")


class Throughput:
    """Counts the real frames, the seconds and those spent waiting since the last `reset`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin a new window."""
        self.start, self.frames, self.waited = time.monotonic(), 0, 0.0

    def fetch(self, stream: Iterator[Item]) -> Item:
        """Return the next item of `stream`; the time it takes is waiting."""
        before = time.monotonic()
        item = next(stream)
        self.waited += time.monotonic() - before
        return item

    def read(self) -> dict[str, float]:
        """Return `frames_per_second` of all hosts and `data_wait` (0..1), and begin a new window.

        All hosts have to call it.
        """
        elapsed = max(time.monotonic() - self.start, 1e-9)
        frames = int(hosts.combine(np.array(self.frames), np.add))
        found = {"frames_per_second": frames / elapsed, "data_wait": self.waited / elapsed}
        self.reset()
        return found
