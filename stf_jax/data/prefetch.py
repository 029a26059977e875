"""Batches made and copied in a thread, ahead of the loop, while the devices compute."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Placed = TypeVar("Placed")


def prefetched(
    stream: Iterator[Item], place: Callable[[Item], Placed], *, ahead: int = 2
) -> Generator[Placed, None, None]:
    """Yield `place(item)` of each item of `stream`, in order, `ahead` of them made beforehand.

    One thread takes the items and calls `place`, such as `devices.shard`. What either raises is
    raised here, after the items before it. Closing the generator waits for the thread.
    """

    def take() -> Placed:
        return place(next(stream))

    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        pending = deque(thread.submit(take) for _ in range(ahead))
        try:
            while True:
                try:
                    placed = pending.popleft().result()
                except StopIteration:
                    return
                pending.append(thread.submit(take))
                yield placed
        finally:
            for future in pending:
                future.cancel()
