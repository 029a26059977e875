"""Part `memory`: what training and extraction hold, remat's price, the largest batch that fits."""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from benchmarking import child, peer, workload
from benchmarking.child import Row
from benchmarking.lengths import plan_of_counts, table_of
from benchmarking.settings import Settings, changed
from stf_jax.data.batch import PackedBatch
from stf_jax.data.sampling import evaluation_plan, frame_buckets, frame_counts
from stf_jax.evaluation.features.extract import extract_features

LONG = (920, 10_000)  # frames: MARS's longest tracklet, and one ten times as long
WARM = 8
# The default keeps a quarter of a GPU's memory for others.
WHOLE_GPU = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"}


def run(settings: Settings) -> Iterator[Row]:
    """Yield the rows of the four questions, each measured in processes of its own."""
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
    if settings.platform == "cpu":
        yield {"note": "the largest batch is looked for on accelerators only"}
        return
    for dtype, remat in ((settings.dtype, False), ("bfloat16", False), (settings.dtype, True)):
        own = changed(settings, dtype=dtype, remat=remat)
        low, high = largest_batch(own)
        yield {
            "largest batch": f"{dtype}{', remat' if remat else ''}",
            "tracklets": low,
            "frames": low * settings.slots,
            "does not fit": high,
        }
    for variant in ("plain", "tuned") if peer.absent() is None else ():
        found = peer.peer("memory", settings, variant)
        yield {
            "largest batch": f"peer, {variant}",
            "tracklets": found["tracklets"],
            "frames": found["computed_frames_per_step"],
            "does not fit": found["tracklets"] + 1,
        }


def _full(settings: Settings) -> tuple[workload.Training, PackedBatch]:
    """Return the training step and a batch without padding."""
    counts = np.full((1, jax.device_count(), settings.tracklets), settings.slots)
    plan = plan_of_counts(counts, settings.slots)
    size = settings.tracklets * settings.slots
    return workload.training(settings), workload.make_batch(settings, plan, 0, size)


def _gigabytes(count: int | None) -> float | None:
    return None if count is None else count / 1e9


def of_training(settings: Settings) -> Iterator[Row]:
    """Yield the time and the memory of full training steps in this process."""
    run, batch = _full(settings)
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


def largest_batch(settings: Settings) -> tuple[int, int]:
    """Return the most tracklets that a training step holds, and a number that it does not."""
    (row,) = child.rows_of(
        child.stream(__name__, "plan_of_memory", settings, environment=WHOLE_GPU)
    )
    guess = int(settings.tracklets * (row["limit"] - row["arguments"]) / row["between"])

    def fits(tracklets: int) -> bool:
        own = changed(settings, tracklets=tracklets)
        found = child.stream(__name__, "one_step", own, environment=WHOLE_GPU)
        if found.status == "failed" and "RESOURCE_EXHAUSTED" in found.reason:
            return False
        return child.rows_of(found)[0]["fits"]

    return largest_fitting(fits, guess)


def largest_fitting(fits: Callable[[int], bool], guess: int) -> tuple[int, int]:
    """Return a size that fits and one that does not, at most an eighth (or 1) above it.

    Looks at `guess` first, doubles or halves from there, then bisects. 0 is taken to fit.
    """
    low, high, size = 0, 0, max(guess, 1)
    while not high or high - low > max(1, low // 8):
        if fits(size):
            low = size
        else:
            high = size
        size = 2 * low if not high else (low + high) // 2
    return low, high


def plan_of_memory(settings: Settings) -> Iterator[Row]:
    """Yield the device's limit, and what the compiler plans for a full training step."""
    run, batch = _full(settings)
    found = workload.compile_training(run, batch).call.memory_analysis()
    limit = (jax.local_devices()[0].memory_stats() or {})["bytes_limit"]
    yield {
        "limit": limit,
        "arguments": found.argument_size_in_bytes,
        "between": found.temp_size_in_bytes,
    }


def one_step(settings: Settings) -> Iterator[Row]:
    """Yield whether two full training steps run."""
    try:
        run, batch = _full(settings)
        program = workload.compile_training(run, batch)
        workload.train_steps(run, [(program, program.place(batch))] * 2)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        yield {"fits": False}
    else:
        yield {"fits": True}
