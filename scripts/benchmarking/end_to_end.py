"""Part `end-to-end`: the training loop itself on pictures of a layout, as its own log tells it."""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarking.child import Row
from benchmarking.layout import layout_folder, need_tensorflow
from benchmarking.settings import ROOT, Settings


def run(settings: Settings) -> Iterator[Row]:
    """Yield real frames/s and the share of time that the loop waits for a batch."""
    need_tensorflow()
    from stf_jax.config import load_config
    from stf_jax.run.metrics_log import METRICS_FILE, read_metrics
    from stf_jax.train import train

    config = load_config(ROOT / "configs" / "mars.py")
    config.seed = settings.seed
    config.data.root = str(layout_folder(settings))
    for name in ("height", "width", "frame_buckets", "threads"):
        config.data[name] = getattr(settings, name)
    config.data.tracklets_per_device = settings.tracklets
    config.data.min_frames, config.data.max_frames = settings.plan["min_frames"], settings.slots
    config.model.update(settings.model)
    config.evaluation.chunk = settings.slots
    config.evaluation.frames_per_device = settings.extract_frames
    # Windows of `steps`; the first ones compile, the last `rounds` count.
    windows = 3 + settings.rounds
    config.train.log_every = settings.steps
    config.train.max_steps = settings.steps * windows
    config.train.epochs = config.train.max_steps
    config.train.evaluate_every = 0
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
