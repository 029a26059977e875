"""Plans for a subset, as training and evaluation make them, and batches compared bit for bit."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.sampling import Plan, evaluation_plan, training_plan


def small_plan(table: TrackletTable, subset: str, *, frames_per_device: int) -> Plan:
    """Of trainval for training on two devices, of any other subset for evaluation on one."""
    if subset != "trainval":
        return evaluation_plan(table, num_devices=1, chunk=4, frames_per_device=frames_per_device)
    return training_plan(
        table,
        seed=3,
        epoch=2,
        num_devices=2,
        sampler="tracklet",
        tracklets=2,
        min_frames=2,
        max_frames=4,
    )


def same_batches(ours: Iterable[Any], theirs: Iterable[Any]) -> int:
    """Compare the batches of two streams; return how many there are."""
    count = 0
    for first, second in zip(ours, theirs, strict=True):
        jax.tree.map(np.testing.assert_array_equal, first, second)
        count += 1
    return count
