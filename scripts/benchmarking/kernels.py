"""Part `kernels`: what a training step's time is spent on, on the device, by the profiler."""

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarking import workload
from benchmarking.child import NotRunError, Row
from benchmarking.lengths import plan_of_counts
from benchmarking.settings import Settings

SHORT = 5e3  # ns; a kernel below is mostly its launch
_SHOWN = 12  # kinds of kernels


def run(settings: Settings) -> Iterator[Row]:
    """Yield a step's time, its share in kernels, what short ones take, the kinds that take most."""
    frames = np.full((1, jax.device_count(), settings.tracklets), (settings.slots + 5) // 2)
    plan = plan_of_counts(frames, settings.slots)
    training = workload.training(settings)
    batch = workload.make_batch(settings, plan, 0, int(frames[0, 0].sum()))
    program = workload.compile_training(training, batch)
    steps = [(program, program.place(batch))] * settings.steps
    workload.train_steps(training, steps[:2])
    untraced = [workload.train_steps(training, steps)[0][0] for _ in range(settings.rounds)]
    yield {
        "frames": int(frames.sum()),
        "ms a step, not traced": 1e3 * statistics.median(untraced) / settings.steps,
        "least": 1e3 * min(untraced) / settings.steps,
        "most": 1e3 * max(untraced) / settings.steps,
        "compile s": program.seconds,
    }
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            workload.train_steps(training, steps)
        (path,) = Path(folder).rglob("*.xplane.pb")
        events = device_events(jax.profiler.ProfileData.from_file(str(path)))
    if not events:
        raise NotRunError(f"the profiler sees no kernels on {jax.devices()[0].device_kind}")
    yield from summary(events, settings.steps)


def device_events(profile: Any) -> list[tuple[str, float, float]]:
    """Return name, start and end (ns) of every kernel on the first device's streams."""
    for plane in profile.planes:
        if plane.name.startswith("/device:GPU"):
            return [
                (event.name, event.start_ns, event.start_ns + event.duration_ns)
                for line in plane.lines
                if line.name.startswith("Stream")
                for event in line.events
            ]
    return []


def summary(events: list[tuple[str, float, float]], steps: int) -> Iterator[Row]:
    """Yield the rows of `run` from kernels of so many steps."""
    spans = np.array([(start, end) for _, start, end in sorted(events, key=lambda e: e[1])])
    ends = np.maximum.accumulate(spans[:, 1])
    idle = np.maximum(spans[1:, 0] - ends[:-1], 0).sum()
    total = ends[-1] - spans[0, 0]
    lengths = spans[:, 1] - spans[:, 0]
    short = lengths < SHORT
    yield {
        "kernels a step": len(events) / steps,
        "ms in kernels": lengths.sum() / steps / 1e6,
        "ms a step, traced": total / steps / 1e6,
        "% at work": 100 * (1 - idle / total),
        "% of kernels under 5 us": 100 * short.mean(),
        "% of time in them": 100 * lengths[short].sum() / total,
    }
    time: dict[str, float] = defaultdict(float)
    for name, start, end in events:
        time[name.rstrip("0123456789_.")] += end - start
    for name, spent in sorted(time.items(), key=lambda kind: -kind[1])[:_SHOWN]:
        yield {"kind": name[:48], "ms": spent / steps / 1e6, "% of time": 100 * spent / total}
