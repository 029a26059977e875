"""Part `input`: reading, decoding and resizing pictures into packed batches, without a model."""

import statistics
import time
from collections.abc import Iterator

from benchmarking.child import Row
from benchmarking.layout import layout_folder, need_tensorflow
from benchmarking.settings import Settings


def run(settings: Settings) -> Iterator[Row]:
    """Yield frames/s on all cores and per core."""
    need_tensorflow()
    from stf_jax.cores import usable_cores
    from stf_jax.data.layout.partitions import load_layout
    from stf_jax.data.pipeline import batches
    from stf_jax.data.sampling import frame_counts, training_buckets, training_plan

    layout = load_layout(layout_folder(settings))
    table = layout.trainval or layout.train
    assert table is not None
    options = settings.plan()
    buckets = training_buckets(table, settings.frame_buckets, **options)
    cores = usable_cores()
    walls, processor, frames = [], [], 0
    for epoch in range(settings.rounds + 1):
        plan = training_plan(table, epoch=epoch, **options)
        wall, cpu = time.perf_counter(), time.process_time()
        stream = batches(
            table,
            plan,
            height=settings.height,
            width=settings.width,
            buckets=buckets,
            threads=settings.threads or None,
        )
        for _ in stream:
            pass
        if epoch:  # the first one fills the file cache
            frames += int(frame_counts(plan).sum())
            walls.append((time.perf_counter() - wall) / frame_counts(plan).sum())
            processor.append((time.process_time() - cpu) / frame_counts(plan).sum())
    per_core = 1 / statistics.median(processor)
    yield {
        "pictures to batches": f"{settings.height}x{settings.width}",
        "frames": frames,
        "cores": cores,
        "threads": settings.threads or cores,
        "frames/s": 1 / statistics.median(walls),
        "ms of processor": 1e3 / per_core,
        "frames/s a core": per_core,
    }
    yield {"note": f"16 such cores: {16 * per_core:,.0f} frames/s, were nothing else in the way"}
