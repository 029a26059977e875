"""Part `step`: the training step from batches that are on the device, at each packed batch size."""

from collections.abc import Iterator

import jax
import numpy as np

from benchmarking import workload
from benchmarking.child import Row
from benchmarking.lengths import mars_table
from benchmarking.roofline import device_peak, product_type, program_flops
from benchmarking.settings import Settings
from stf_jax.data.sampling import frame_counts, training_buckets, training_plan


def run(settings: Settings) -> Iterator[Row]:
    """Yield a row a batch size, then what an epoch of MARS's tracklets comes to."""
    table = mars_table(settings.tables, "train")
    devices = jax.device_count()
    options = settings.plan(devices)
    buckets = training_buckets(table, settings.frame_buckets, **options)
    plan = training_plan(table, epoch=1, **options)
    counts = frame_counts(plan)
    size_of = np.array(buckets)[np.searchsorted(buckets, counts.max(1))]
    peak = device_peak()
    kind = product_type(settings.dtype)
    top = peak.flops.get(kind)
    yield {
        "note": f"{settings.backbone} {settings.height}x{settings.width}, embedding "
        f"{settings.embed_dim}, {settings.dtype}{', remat' if settings.remat else ''}; "
        f"{settings.tracklets} tracklets a step on {devices} device(s); peak of one: "
        f"{'-' if top is None else f'{top / 1e12:.2f}'} TFLOP/s ({kind}), "
        f"{peak.bandwidth / 1e9:.0f} GB/s ({peak.source})"
    }
    yield {
        "note": "TFLOP: convolutions and products of the traced program, padding rows included; "
        "bytes: the compiler's count, which adds up what each kernel reads and writes"
    }
    run = workload.training(settings)
    seconds_of: dict[int, float] = {}
    for size in reversed(buckets):
        chosen = np.flatnonzero(size_of == size)
        if not len(chosen):
            continue
        middle = chosen[np.argsort(counts[chosen].sum(1))[len(chosen) // 2]]
        batch = workload.make_batch(settings, plan, int(middle), size)
        flops = program_flops(run.step, run.state, batch, run.key)
        program = workload.compile_training(run, batch)
        batch = program.place(batch)
        seconds = seconds_of[size] = workload.step_seconds(settings, run, program, batch)
        moved = program.cost("bytes accessed")
        yield {
            "frames": size,
            "steps %": 100 * len(chosen) / len(counts),
            "compile s": program.seconds,
            "cached": program.cached,
            "ms": 1e3 * seconds,
            "real frames/s": float(counts[chosen].sum(1).mean()) / seconds,
            "TFLOP/s": flops / seconds / 1e12,
            "% peak": None if top is None else 100 * flops / seconds / top,
            "GB/s": None if moved is None else moved / seconds / 1e9,
            "% peak bw": None if moved is None else 100 * moved / seconds / peak.bandwidth,
        }
    total = sum(seconds_of[size] for size in size_of.tolist())
    yield {
        "an epoch of MARS": f"{len(counts)} steps",
        "real frames": int(counts.sum()),
        "computed": int(size_of.sum()) * devices,
        "s": total,
        "real frames/s": float(counts.sum() / total),
    }
    on_device = workload.peak_device_memory()
    yield {
        "peak memory": "this process",
        "host GB": workload.peak_host_memory() / 1e9,
        "device GB": None if on_device is None else on_device / 1e9,
    }
