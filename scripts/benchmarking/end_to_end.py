"""Part `end-to-end`: the training loop itself on pictures of a layout, as its log reports it."""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax

from benchmarking.child import Row
from benchmarking.layout import layout_folder, need_tensorflow
from benchmarking.settings import Settings
from stf_jax.config import Config, DataConfig, EvaluationConfig, TrainConfig


def run(settings: Settings) -> Iterator[Row]:
    """Yield real frames/s and the share of time that the loop waits for a batch."""
    need_tensorflow()
    from stf_jax.run.metrics_log import METRICS_FILE, read_metrics
    from stf_jax.train import train

    # Windows of `steps`; the first ones compile, the last `rounds` count.
    steps = settings.steps * (3 + settings.rounds)
    config = Config(
        seed=settings.seed,
        data=DataConfig(
            root=str(layout_folder(settings)),
            height=settings.height,
            width=settings.width,
            frame_buckets=settings.frame_buckets,
            threads=settings.threads,
            tracklets=settings.tracklets * jax.device_count(),
            min_frames=settings.plan()["min_frames"],
            max_frames=settings.slots,
        ),
        model=settings.model,
        train=TrainConfig(
            epochs=steps, max_steps=steps, log_every=settings.steps, evaluate_every=0
        ),
        evaluation=EvaluationConfig(
            chunk=settings.slots, frames_per_device=settings.extract_frames
        ),
    )
    with tempfile.TemporaryDirectory(prefix="stf_benchmark_") as folder:
        train(config, Path(folder))
        logged = [row for row in read_metrics(Path(folder) / METRICS_FILE) if "data_wait" in row]
    counted = logged[-settings.rounds :]
    speeds = [row["frames_per_second"] for row in counted]
    yield {
        "training loop": f"{settings.backbone} {settings.height}x{settings.width}",
        "steps": settings.steps * len(counted),
        "real frames/s": statistics.median(speeds),
        "least": min(speeds),
        "most": max(speeds),
        "% waiting": 100 * statistics.median(row["data_wait"] for row in counted),
    }
    yield {
        "note": "waiting: the loop's time in fetching batches. Steps run while it fetches the next "
        "one on an accelerator, so the device waits for no more than that"
    }
