"""Part `cache`: how long a fresh process takes to its first training step."""

import tempfile
import time
from collections.abc import Iterator

import jax

from benchmarking import child, workload
from benchmarking.child import Row
from benchmarking.lengths import mars_table
from benchmarking.settings import Settings, changed
from stf_jax.data.sampling import training_buckets, training_plan


def run(settings: Settings) -> Iterator[Row]:
    """Yield a row for an empty compilation cache, and one for the cache that it left."""
    with tempfile.TemporaryDirectory(prefix="stf_compiled_") as folder:
        own = changed(settings, compilation_cache=folder)
        for name in ("empty", "filled"):
            found = child.stream(__name__, "first_step", own)
            (row,) = child.rows_of(found)
            yield {
                "compilation cache": name,
                "start to first step, s": row["at"] - found.started,
                "of it compiling the step": row["compile"],
                "from the cache": row["cached"],
            }


def first_step(settings: Settings) -> Iterator[Row]:
    """Yield when the first step of this process was done, and what compiling it took."""
    table = mars_table(settings.tables, "train")
    options = settings.plan(jax.device_count())
    size = training_buckets(table, settings.frame_buckets, **options)[-1]
    run = workload.training(settings)
    batch = workload.make_batch(settings, training_plan(table, epoch=1, **options), 0, size)
    program = workload.compile_training(run, batch)
    workload.train_steps(run, [(program, program.place(batch))])
    yield {"at": time.time(), "compile": program.seconds, "cached": program.cached}
