"""Part `memory`: what training and extraction hold, and remat's price."""

from collections.abc import Iterator

import jax
import numpy as np

from benchmarking import child, workload
from benchmarking.child import Row
from benchmarking.lengths import plan_of_counts, table_of
from benchmarking.settings import Settings, changed
from stf_jax.data.batch import PackedBatch
from stf_jax.data.sampling import evaluation_plan, frame_buckets, frame_counts
from stf_jax.evaluation.features.extract import extract_features

LONG = (920, 10_000)  # frames: MARS's longest tracklet, and one ten times as long
WARM = 8


def run(settings: Settings) -> Iterator[Row]:
    """Yield the rows of the three questions, each measured in processes of its own."""
    yield {
        "note": f"training at {settings.tracklets} x {settings.slots} frames, {settings.dtype}; "
        "kept: what the forward pass keeps for the backward one; program: what the compiler plans "
        "to hold (arguments, results, between)"
    }
    plain = 0.0
    for remat in (False, True):
        (row,) = child.rows_of(
            child.stream(__name__, "of_training", changed(settings, remat=remat))
        )
        plain = plain or row["ms"]
        yield {"remat": remat, **row, "times as long": row["ms"] / plain}
    for frames in LONG:
        yield from child.rows_of(child.stream(__name__, "of_long", settings, frames=frames))


def full_batch(settings: Settings) -> tuple[workload.Training, PackedBatch]:
    """Return the training step and a batch without padding."""
    counts = np.full((1, jax.device_count(), settings.tracklets), settings.slots)
    plan = plan_of_counts(counts, settings.slots)
    size = settings.tracklets * settings.slots
    return workload.training(settings), workload.make_batch(settings, plan, 0, size)


def _gigabytes(count: int | None) -> float | None:
    return None if count is None else count / 1e9


def of_training(settings: Settings) -> Iterator[Row]:
    """Yield the time and the memory of full training steps in this process."""
    run, batch = full_batch(settings)
    program = workload.compile_training(run, batch)
    seconds = workload.step_seconds(settings, run, program, program.place(batch))
    yield {
        "ms": 1e3 * seconds,
        "frames/s": batch.tracklet.size / seconds,
        "kept GB": _gigabytes(workload.kept_bytes(settings, batch)),
        "program GB": _gigabytes(program.memory()),
        "device GB": _gigabytes(workload.peak_device_memory()),
        "host GB": _gigabytes(workload.peak_host_memory()),
    }


def of_long(settings: Settings, *, frames: int) -> Iterator[Row]:
    """Yield how far memory grows in extracting one tracklet of so many frames.

    Grows: beyond the peak after a tracklet of WARM batches, which compile, and fill the allocator.
    """
    step, variables = workload.extraction(settings)
    before = 0
    for length in (WARM * settings.extract_frames, frames):
        before = workload.peak_host_memory()
        table = table_of(np.array([length]), np.array([1]), np.array([1]))
        plan = evaluation_plan(
            table,
            num_devices=jax.device_count(),
            chunk=settings.slots,
            frames_per_device=settings.extract_frames,
        )
        sizes = frame_buckets(frame_counts(plan).max(1), 1, largest=settings.extract_frames)
        batches = (
            workload.make_batch(settings, plan, s, sizes[-1]) for s in range(len(plan.frame_rows))
        )
        found = extract_features(step, variables, batches, plan, 1, length)
        assert found.num_frames.tolist() == [length]
        assert np.isfinite(found.features).all()
    pixels = frames * settings.height * settings.width * 3
    yield {
        "tracklet of": frames,
        "batches": len(plan.frame_rows),
        "its pixels MB": pixels / 1e6,
        "host peak grows MB": (workload.peak_host_memory() - before) / 1e6,
        "host GB": _gigabytes(workload.peak_host_memory()),
        "device GB": _gigabytes(workload.peak_device_memory()),
    }
