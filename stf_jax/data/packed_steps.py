"""Frames in the order of a plan -> packed batches, from wherever they are read."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stf_jax.data.batch import PackedBatch
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.sampling import Plan, frame_counts
from stf_jax.errors import UserError

_LOG = logging.getLogger(__name__)
_NAMED = 20  # unreadable images that are named in the log, one line each


@dataclass(frozen=True)
class PlannedImages:
    """The images of a plan, to say what is wrong with one."""

    folder: Path
    names: np.ndarray  # [f] bytes, in the plan's order
    # Why an image cannot be read or decoded, "" where it can, and whether it could be read.
    failure: Callable[[int], tuple[str, bool]]

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.folder / os.fsdecode(self.names[index])

    def unreadable(self, index: int, reason: str, was_read: bool) -> UserError:
        """The error of an image that is needed."""
        skip = ", or set data.on_corrupt to 'skip'" if was_read else ""  # which is for these only
        return UserError(
            f"{self.path(index)}: cannot be read ({reason}); expected a whole PNG or JPEG; replace "
            f"it, or drop it with `python -m stf_jax.prepare verify --fix`{skip}"
        )

    def changing(self) -> UserError:
        """The error where a second look contradicts the first."""
        return UserError(
            f"{self.folder}: an image could not be read but now can; is the folder being written "
            "to? Start again"
        )


def planned_share(
    plan: Plan, buckets: Sequence[int], start_step: int, devices: slice, on_corrupt: str
) -> tuple[Plan, np.ndarray]:
    """Returns a host's share of a plan from `start_step` on, and M of each of its steps, int [S].

    For the arguments see `stf_jax.data.pipeline.batches`. Raises UserError where no bucket is
    large enough or `on_corrupt` is neither "error" nor "skip".
    """
    if on_corrupt not in ("error", "skip"):
        raise UserError(f"on_corrupt {on_corrupt!r}: expected 'error' or 'skip'")
    counts = frame_counts(plan).max(axis=1, initial=0)
    sizes = np.array(sorted(buckets))
    if counts.max(initial=0) > sizes[-1]:
        raise UserError(
            f"a step has {counts.max()} frames on a device, the largest of the batch sizes "
            f"{', '.join(map(str, sizes))} is too small; choose them with frame_buckets"
        )
    steps = slice(start_step, None)
    index = plan.global_index
    share = Plan(
        plan.tracklets[steps, devices],
        plan.frame_rows[steps, devices],
        global_index=None if index is None else index[steps, devices],
    )
    return share, sizes[np.searchsorted(sizes, counts[steps])]


def packed_steps(
    table: TrackletTable,
    plan: Plan,
    sizes: np.ndarray,
    shape: tuple[int, int],
    frames: Iterator[tuple[np.ndarray, np.ndarray]],
    files: PlannedImages,
    *,
    planned: int,
    max_lost: float,
) -> Iterator[PackedBatch]:
    """Yields the batches of a plan's share, whose frames come in its order.

    Args:
        table: that the plan was made for.
        plan: this host's steps and devices of it.
        sizes: int [S], M of each step.
        shape: H and W, pixels.
        frames: blocks of (index [k], image uint8 [k, H, W, 3]); the index, in ascending order, is
            the frame's place among all real ones of `plan`. One that is missing is lost.
        files: where they come from; says why one was lost.
        planned: images of the whole epoch on these devices.
        max_lost: see `stf_jax.data.pipeline.batches`.

    Raises:
        UserError: a lost frame that could not even be read; too many lost.
    """
    _, num_devices, num_tracklets, _ = plan.frame_rows.shape
    step, device, tracklet, slot = np.nonzero(plan.frame_rows >= 0)
    numbers = np.zeros_like(plan.tracklets) if plan.global_index is None else plan.global_index
    ends = np.searchsorted(step, np.arange(len(sizes)), side="right")
    index, images = np.zeros(0, np.int64), np.zeros((0, *shape, 3), np.uint8)
    start, skipped = 0, 0
    for s, (size, end) in enumerate(zip(sizes, ends.tolist(), strict=True)):
        batch = PackedBatch(
            images=np.zeros((num_devices, size, *shape, 3), np.uint8),
            tracklet=np.full((num_devices, size), num_tracklets, np.int32),
            slot=np.zeros((num_devices, size), np.int32),
            labels=np.full((num_devices, num_tracklets), -1, np.int32),
            global_index=numbers[s].astype(np.int32),
        )
        seen = np.zeros(end - start, bool)
        filled = [0] * num_devices
        while True:
            here = int(np.searchsorted(index, end))
            seen[index[:here] - start] = True
            for d in np.unique(device[index[:here]]):
                (its,) = np.nonzero(device[index[:here]] == d)
                rows = slice(filled[d], filled[d] + len(its))
                batch.images[d, rows] = images[its[0] : its[-1] + 1]
                batch.tracklet[d, rows] = tracklet[index[its]]
                batch.slot[d, rows] = slot[index[its]]
                filled[d] += len(its)
            index, images = index[here:], images[here:]
            # Without a later frame in hand more of this step's may come.
            if len(index) or seen.all():
                break
            index, images = next(frames, (index, images))
            if not len(index):
                break
        for lost in (start + np.flatnonzero(~seen)).tolist():
            reason, was_read = files.failure(lost)
            if not reason:
                raise files.changing()
            if not was_read:
                raise files.unreadable(lost, reason, was_read)
            skipped += 1
            if skipped <= _NAMED:
                _LOG.warning("%s: cannot be decoded, left out", files.path(lost))
            if skipped > max_lost * planned:
                raise UserError(
                    f"{files.folder}: {skipped} of {planned} images of an epoch cannot be decoded; "
                    f"expected at most {100 * max_lost:g} % (config.data.max_lost); replace them, "
                    "or drop them with `python -m stf_jax.prepare verify --fix`"
                )
        if max_lost < 1 and end > start and not seen.any():
            raise UserError(
                f"{files.folder}: none of the {end - start} images of a step can be decoded "
                f"(such as {files.path(start).name}); expected some; replace them, or drop them "
                "with `python -m stf_jax.prepare verify --fix`"
            )
        used = (np.arange(num_tracklets) == batch.tracklet[:, :, None]).any(axis=1)  # [D, B]
        batch.labels[used] = table.labels[plan.tracklets[s][used]]
        start = end
        yield batch
    if skipped:
        count = len(files.names)
        _LOG.warning("%d of %d images could not be decoded and were left out", skipped, count)
