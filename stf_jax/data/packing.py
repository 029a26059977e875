"""Filling batches: items into equal budgets, and few batch sizes that fit many counts."""

from collections import deque

import numpy as np
from jaxtyping import Int64


def pack(
    sizes: list[int], budget: int, slots: int, window: int = 512
) -> tuple[Int64[np.ndarray, " c"], Int64[np.ndarray, " c"]]:
    """Batch and slot, both from 0, of each item: in order, where the items' order leaves no gap.

    Args:
        sizes: of the items, 1 to `budget`.
        budget: the sum of a batch's sizes at most.
        slots: the items of a batch at most.
        window: where the next item does not fit, the largest of so many next ones that fits is
            taken, so memory and reading stay nearly in order.
    """
    batch, slot = np.zeros((2, len(sizes)), np.int64)
    by_size = [deque() for _ in range(max(sizes) + 1)]  # the items of the window, by size
    packed = [False] * len(sizes)
    end = head = room = used = 0
    current = -1
    for _ in sizes:
        while packed[head]:
            head += 1
        while end < min(head + window, len(sizes)):
            by_size[sizes[end]].append(end)
            end += 1
        if used == slots or not (sizes[head] <= room or any(by_size[1 : room + 1])):
            room, used, current = budget, 0, current + 1
        fits = (
            sizes[head]
            if sizes[head] <= room
            else next(size for size in range(min(room, len(by_size) - 1), 0, -1) if by_size[size])
        )
        item = by_size[fits].popleft()
        packed[item] = True
        batch[item], slot[item] = current, used
        room, used = room - fits, used + 1
    return batch, slot


def frame_buckets(
    counts: Int64[np.ndarray, " n"], num_buckets: int, *, largest: int | None = None
) -> tuple[int, ...]:
    """At most `num_buckets` ascending batch sizes M that pad the given counts the least.

    A step of c frames is padded to the smallest M >= c, so the sum of M over `counts` is
    minimised, exactly, by dynamic programming over the distinct counts. As many sizes are as many
    compilations at most.

    Args:
        counts: frames of a sample of steps (the largest of its devices), each at least 0.
        num_buckets: k, at least 1.
        largest: a count that no step exceeds, if `counts` may not hold it: the last size.
    """
    values, weights = np.unique(np.maximum(counts, 1), return_counts=True)
    if largest is not None and (not len(values) or largest > values[-1]):
        values, weights = np.append(values, largest), np.append(weights, 0)
    total = np.concatenate([[0], np.cumsum(weights)])
    # cost[j]: the least sum over the first j values with the sizes allowed so far.
    cost = np.concatenate([[0], np.full(len(values), np.inf)])
    choices = []
    for _ in range(min(num_buckets, len(values))):
        # [i, j]: values i..j-1 share the size values[j-1]
        share = cost[:, None] + (total[None, 1:] - total[:, None]) * values[None, :]
        share[np.tril_indices(len(values) + 1, -1, len(values))] = np.inf
        choices.append(share.argmin(axis=0))
        cost = np.concatenate([[0], share.min(axis=0)])
    sizes, end = [], len(values)
    for choice in reversed(choices):
        if end:
            sizes.append(int(values[end - 1]))
            end = int(choice[end - 1])
    return tuple(reversed(sizes))
