"""Part `packing`: packed batches against the same code with every tracklet padded to its slots.

The padded rows are the packed ones plus rows without a tracklet, so results must be equal: losses
and gradient norms of the first steps, and the extracted features.
"""

import statistics
from collections.abc import Iterator

import jax
import numpy as np

from benchmarking import workload
from benchmarking.child import Row
from benchmarking.extraction import median_seconds, sampled_plan
from benchmarking.lengths import mars_table, padded_plan, representative_steps
from benchmarking.settings import Settings
from stf_jax.data.batch import PackedBatch
from stf_jax.data.sampling import (
    frame_buckets,
    frame_counts,
    training_buckets,
    training_plan,
)
from stf_jax.devices import replicate
from stf_jax.evaluation.features.extract import extract_features

WANTED = 1.5  # times the real frames/s of padded training
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}  # of losses and features, relative


def run(settings: Settings) -> Iterator[Row]:
    """Yield the two speeds of training and of extraction, and their ratios."""
    yield from training(settings)
    yield from extraction(settings)


def training(settings: Settings) -> Iterator[Row]:
    """Yield the rows of training, on steps that represent an epoch of MARS."""
    table = mars_table(settings.tables, "train")
    options = settings.plan(jax.device_count())
    buckets = training_buckets(table, settings.frame_buckets, **options)
    full = settings.tracklets * settings.slots
    plan = training_plan(table, epoch=1, **options)
    fullest = frame_counts(plan).max(1)
    computed = np.array(buckets)[np.searchsorted(buckets, fullest)]
    yield {
        "note": f"an epoch of MARS: {frame_counts(plan).sum():,} real frames, computed packed "
        f"{computed.sum() * options['num_devices']:,}, padded "
        f"{full * len(computed) * options['num_devices']:,}: "
        f"{full * len(computed) / computed.sum():.2f} times as many"
    }
    chosen = representative_steps(plan, settings.steps)
    real = int(frame_counts(plan)[chosen].sum())
    run = workload.training(settings)
    programs: dict[int, workload.Program] = {}

    def steps(sizes: np.ndarray) -> list[tuple[workload.Program, PackedBatch]]:
        listed = []
        for step, size in zip(chosen.tolist(), sizes.tolist(), strict=True):
            batch = workload.make_batch(settings, plan, step, size)
            if size not in programs:
                programs[size] = workload.compile_training(run, batch)
            listed.append((programs[size], programs[size].place(batch)))
        return listed

    kinds = {"packed": steps(computed[chosen]), "padded": steps(np.full(len(chosen), full))}
    yield {
        "note": f"{len(buckets)} packed sizes, so as many compilations of the step at most: "
        f"{', '.join(map(str, buckets))}; {settings.steps} steps timed, {real} real frames"
    }
    # Both from the same state; steps donate it, so it is kept on the host.
    start = jax.tree.map(np.asarray, run.state)
    first = {}
    for name, listed in kinds.items():
        run.state = replicate(start)
        _, metrics = workload.train_steps(run, listed[:2])
        first[name] = [[float(m["loss"]), float(m["grad_norm"])] for m in metrics]
    check_equal(first["packed"], first["padded"], settings.dtype, "losses and gradient norms")
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(settings.rounds + 1):
        for name, listed in kinds.items():
            seconds[name] += workload.train_steps(run, listed)[0]
    yield from compared("training", real, {name: s[1:] for name, s in seconds.items()}, WANTED)


def extraction(settings: Settings) -> Iterator[Row]:
    """Yield the rows of extraction, on a sample of MARS's test lengths."""
    table, plan = sampled_plan(settings, jax.device_count())
    chunks = max(1, settings.extract_frames // settings.slots)
    padded = padded_plan(plan, chunks)
    (size,) = frame_buckets(frame_counts(plan).max(1), 1)
    step, variables = workload.extraction(settings)
    features, seconds = {}, {}
    for name, its, rows in (("packed", plan, size), ("padded", padded, chunks * settings.slots)):
        batches = [workload.make_batch(settings, its, s, rows) for s in range(len(its.frame_rows))]
        program = workload.compile_step(step, variables, batches[0])
        features[name] = extract_features(
            program.call, variables, batches, its, table.num_tracklets, table.num_frames
        ).features
        resident = [program.place(batch) for batch in batches]
        work = [(program.call, batch) for batch in resident]
        seconds[name] = [
            median_seconds(lambda work=work: [f(variables, b) for f, b in work], settings.rounds)
        ]
    check_equal(features["packed"], features["padded"], settings.dtype, "features")
    yield from compared("extraction", table.num_frames, seconds, None)


def check_equal(packed, padded, dtype: str, what: str) -> None:
    """Raise AssertionError unless the results are equal but for rounding."""
    np.testing.assert_allclose(
        packed, padded, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], err_msg=what
    )


def compared(
    what: str, real: int, seconds: dict[str, list[float]], wanted: float | None
) -> Iterator[Row]:
    """Yield a row each, of the median seconds, and one of their ratio."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        yield {what: name, "s": value, "real frames/s": real / value, "equal results": True}
    ratio = medians["padded"] / medians["packed"]
    yield {
        "note": f"{what}: packed is {ratio:.2f} times as fast"
        + ("" if wanted is None else f" ({'reaches' if ratio >= wanted else 'below'} {wanted})")
    }
