"""Part `extraction`: evaluation features on the lengths of MARS's test tracklets."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarking import workload
from benchmarking.child import Row
from benchmarking.lengths import mars_table, sample
from benchmarking.roofline import device_peak, product_type, program_flops
from benchmarking.settings import Settings
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.sampling import Plan, evaluation_plan, frame_buckets, frame_counts
from stf_jax.evaluation.features.extract import extract_features


def sampled_plan(settings: Settings, devices: int) -> tuple[TrackletTable, Plan]:
    """Return test tracklets of MARS's lengths for about `steps` batches, and their plan."""
    table = mars_table(settings.tables, "test")
    frames = settings.steps * settings.extract_frames * devices
    few = sample(table, max(4, round(frames / float(table.lengths.mean()))))
    plan = evaluation_plan(
        few,
        num_devices=devices,
        chunk=settings.slots,
        frames_per_device=settings.extract_frames,
    )
    return few, plan


def median_seconds(work: Callable[[], Any], rounds: int) -> float:
    """Return the median seconds of a call whose result is waited for, after one uncounted."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(work())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def run(settings: Settings) -> Iterator[Row]:
    """Yield the speed of the step from resident batches, and of all but reading images."""
    table, plan = sampled_plan(settings, jax.device_count())
    counts = frame_counts(plan)
    (size,) = frame_buckets(counts.max(1), 1)
    step, variables = workload.extraction(settings)
    batches = [workload.make_batch(settings, plan, s, size) for s in range(len(counts))]
    flops = program_flops(step, variables, batches[0]) * len(batches)
    program = workload.compile_step(step, variables, batches[0])
    resident = [program.place(batch) for batch in batches]

    def extract() -> np.ndarray:
        found = extract_features(step, variables, batches, plan, len(table.lengths), counts.sum())
        assert found.num_frames.sum() == counts.sum()
        return found.features

    peak = device_peak().flops.get(product_type(settings.dtype))
    yield {
        "note": f"{settings.backbone} {settings.height}x{settings.width}, {settings.dtype}; "
        f"{table.num_tracklets} tracklets, {counts.sum():,} frames in {len(batches)} batches of "
        f"{size} a device: {100 * counts.sum() / (size * counts.size):.1f} % full; compiled in "
        f"{program.seconds:.1f} s{' (from the cache)' if program.cached else ''}"
    }
    for name, work in {
        "resident batches": lambda: [program.call(variables, batch) for batch in resident],
        "host batches to features": extract,
    }.items():
        seconds = median_seconds(work, settings.rounds)
        yield {
            "extraction": name,
            "s": seconds,
            "real frames/s": float(counts.sum() / seconds),
            "TFLOP/s": flops / seconds / 1e12,
            "% peak": None if peak is None else 100 * flops / seconds / peak,
        }
