"""Part `bfloat16`: the training step's time in bfloat16 against float32, taking turns."""

import statistics
from collections.abc import Iterator

import jax
import numpy as np

from benchmarking import workload
from benchmarking.child import Row
from benchmarking.lengths import plan_of_counts
from benchmarking.settings import Settings, changed


def run(settings: Settings) -> Iterator[Row]:
    """Yield a row for each type; the step has the frames of an average one, rounded up."""
    frames = np.full((1, jax.device_count(), settings.tracklets), (settings.slots + 5) // 2)
    plan = plan_of_counts(frames, settings.slots)
    real = int(frames.sum())
    runs = {}
    for dtype in ("float32", "bfloat16"):
        own = changed(settings, dtype=dtype)
        training = workload.training(own)
        batch = workload.make_batch(own, plan, 0, int(frames[0, 0].sum()))
        program = workload.compile_training(training, batch)
        steps = [(program, program.place(batch))] * settings.steps
        workload.train_steps(training, steps[:1])
        runs[dtype] = (training, steps)
    seconds: dict[str, list[float]] = {dtype: [] for dtype in runs}
    losses = {}
    for _ in range(settings.rounds):
        for dtype, (training, steps) in runs.items():
            taken, metrics = workload.train_steps(training, steps)
            seconds[dtype].append(taken[0] / settings.steps)
            losses[dtype] = float(metrics[-1]["loss"])
    plain = statistics.median(seconds["float32"])
    for dtype, values in seconds.items():
        median = statistics.median(values)
        yield {
            "type": dtype,
            "ms": 1e3 * median,
            "real frames/s": real / median,
            "times float32's speed": plain / median,
            "last loss": losses[dtype],
        }
