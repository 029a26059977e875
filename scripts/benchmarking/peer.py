"""Part `peer`: this project against torch_peer.py, in turns, on the same device.

Every run is a process of its own, so that neither side holds the other's memory; the sides take
turns (A B A B) and medians over the turns are compared.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarking import child, workload
from benchmarking.child import NotRunError, Row, installed
from benchmarking.extraction import sampled_plan
from benchmarking.lengths import mars_table, plan_of_counts, representative_steps, table_of
from benchmarking.settings import ROOT, Settings, changed
from stf_jax.data.sampling import (
    evaluation_plan,
    frame_buckets,
    frame_counts,
    training_buckets,
    training_plan,
)

PEER = ROOT / "scripts" / "benchmarking" / "torch_peer.py"
TURNS = 2


def run(settings: Settings) -> Iterator[Row]:
    """Yield a row for each side of training and extraction, and their ratios."""
    reason = absent()
    if reason is not None:
        raise NotRunError(reason)
    # This process stays away from the device: the sides are to have all of it.
    dtypes = ("float32",) if settings.platform == "cpu" else ("bfloat16", "float32")
    if settings.dtype == "bfloat16":
        dtypes = ("bfloat16",)
    # What decides comes first, in case the time is up before the turns are.
    sides = [
        f"ours, {dtypes[0]}",
        "peer, tuned",
        "peer, plain",
        *(f"ours, {d}" for d in dtypes[1:]),
    ]
    yield {
        "note": f"{settings.backbone} {settings.height}x{settings.width}, embedding "
        f"{settings.embed_dim}; {settings.tracklets} tracklets of at most {settings.slots} frames "
        "with MARS's lengths; the peer pads to that many; speeds are of real frames"
    }
    for part, lengths in mars_lengths(settings).items():
        speeds: dict[str, list[float]] = {}
        peaks: dict[str, float | None] = {}
        for turn in range(1, TURNS + 1):
            for side in sides:
                who, kind = side.split(", ")
                work = ours if who == "ours" else peer
                found = work(part, settings, kind, lengths)
                speeds.setdefault(side, []).append(found["real_frames_per_second"])
                peaks[side] = found["peak_memory_bytes"]
                yield {"turn": f"{turn}, {part}, {side}", "real frames/s": speeds[side][-1]}
        medians = {side: statistics.median(values) for side, values in speeds.items()}
        for side, median in medians.items():
            memory = peaks[side]
            yield {
                part: side,
                "real frames/s": median,
                "least": min(speeds[side]),
                "most": max(speeds[side]),
                "times plain": median / medians["peer, plain"],
                "times tuned": median / medians["peer, tuned"],
                "peak GB": None if memory is None else memory / 1e9,
            }


def absent() -> str | None:
    """Return why the peer cannot be run here; None where it can."""
    if not PEER.is_file():
        return "there is no scripts/benchmarking/torch_peer.py"
    if not installed("torch"):
        return "needs torch, which is not installed (pip install -e '.[convert]')"
    return None


def mars_lengths(settings: Settings) -> dict[str, np.ndarray]:
    """Return real frames: of training [steps, tracklets], of extraction [chunks]."""
    table = mars_table(settings.tables, "train")
    plan = training_plan(table, epoch=1, **settings.plan())
    steps = representative_steps(plan, settings.steps)
    _, evaluation = sampled_plan(settings, 1)
    chunks = (evaluation.frame_rows >= 0).sum(-1)
    return {"train": (plan.frame_rows[steps, 0] >= 0).sum(-1), "extract": chunks[chunks > 0]}


def ours(part: str, settings: Settings, dtype: str, lengths: np.ndarray) -> dict[str, Any]:
    """Return this project's figures, by the names that the peer has for them."""
    found = child.stream(
        __name__, f"ours_{part}", changed(settings, dtype=dtype), lengths=lengths.tolist()
    )
    (row,) = child.rows_of(found)
    return row


def peer(
    part: str, settings: Settings, variant: str, lengths: np.ndarray | None = None
) -> dict[str, Any]:
    """Return the peer's figures; raises RuntimeError with its last line where it fails."""
    with tempfile.TemporaryDirectory(prefix="stf_peer_") as folder:
        array, result = Path(folder) / "lengths.npy", Path(folder) / "found.json"
        options = {
            "--variant": variant,
            "--device": "cpu" if settings.platform == "cpu" else "cuda",
            "--seed": settings.seed,
            "--json": result,
        }
        for name in ("backbone", "height", "width", "embed_dim", "num_classes", "slots"):
            options[f"--{name.replace('_', '-')}"] = getattr(settings, name)
        options["--tracklets"] = settings.tracklets
        if settings.threads:
            options["--threads"] = settings.threads
        if lengths is not None:
            np.save(array, lengths)
            options["--lengths"] = array
        words = [str(word) for pair in options.items() for word in pair]
        command = [sys.executable, str(PEER), part, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"torch_peer.py {part}, {variant}: {last_line(done.stderr)}")
        found = json.loads(result.read_text())
    if lengths is not None:
        real = found["real_frames_per_step"] * found["steps"]
        found["real_frames_per_second"] = real / sum(found["seconds_per_step"])
    return found


def last_line(text: str) -> str:
    """Return the last line that is not empty."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no message")


def ours_train(settings: Settings, *, lengths: list[list[int]]) -> Iterator[Row]:
    """Yield the figures of training steps with these real frames [steps, tracklets]."""
    counts = np.array(lengths)[:, None]
    plan = plan_of_counts(counts, settings.slots)
    sizes = training_buckets(
        mars_table(settings.tables, "train"),
        settings.frame_buckets,
        **settings.plan(),
    )
    run = workload.training(settings, devices=jax.devices()[:1])
    programs: dict[int, workload.Program] = {}
    steps = []
    for step, count in enumerate(counts.sum((1, 2)).tolist()):
        size = next(size for size in sizes if size >= count)
        batch = workload.make_batch(settings, plan, step, size)
        if size not in programs:
            programs[size] = workload.compile_training(run, batch)
        steps.append((programs[size], programs[size].place(batch)))
    workload.train_steps(run, [(p, next(b for q, b in steps if q is p)) for p in programs.values()])
    seconds, metrics = workload.train_steps(run, steps, each=True)
    yield figures(seconds, int(counts.sum())) | {"losses": [float(m["loss"]) for m in metrics]}


def ours_extract(settings: Settings, *, lengths: list[int]) -> Iterator[Row]:
    """Yield the figures of extracting chunks of so many real frames each."""
    ones = np.arange(len(lengths))
    plan = evaluation_plan(
        table_of(np.array(lengths), ones, ones),
        num_devices=1,
        chunk=settings.slots,
        frames_per_device=settings.extract_frames,
    )
    (size,) = frame_buckets(frame_counts(plan).max(1), 1)
    step, variables = workload.extraction(settings)
    batches = [workload.make_batch(settings, plan, s, size) for s in range(len(plan.frame_rows))]
    program = workload.compile_step(step, variables, batches[0])
    resident = [program.place(batch) for batch in batches]
    seconds = []
    for batch in (resident[0], *resident):
        start = time.perf_counter()
        jax.block_until_ready(program.call(variables, batch))
        seconds.append(time.perf_counter() - start)
    yield figures(seconds[1:], sum(lengths))


def figures(seconds: list[float], real: int) -> Row:
    """Return what is compared."""
    on_device = workload.peak_device_memory()
    return {
        "seconds": seconds,
        "real_frames_per_second": real / sum(seconds),
        "peak_memory_bytes": workload.peak_host_memory() if on_device is None else on_device,
    }
