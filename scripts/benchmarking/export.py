"""Part `export`: exported models beside JAX's own program, on the CPU, and their differences."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarking.child import Row
from benchmarking.settings import Settings
from stf_jax.errors import UserError
from stf_jax.export.runtimes import FORMATS, Runner, jax_runner
from stf_jax.export.write import drawn_frames, largest_difference
from stf_jax.models import build_model
from stf_jax.models.variables import init_variables


def run(settings: Settings) -> Iterator[Row]:
    """Yield a row for JAX and for each format: real frames/s, size, difference from JAX."""
    model = build_model(replace(settings.model, dtype="float32"), 0)
    size = settings.height, settings.width
    variables = init_variables(model, settings.seed, *size)
    slots = min(settings.slots, 8)
    frames, mask = drawn_frames((slots,) * settings.tracklets, slots, *size, seed=settings.seed)
    ours = jax_runner(model, variables, False)
    expected = ours(frames, mask)
    runners: dict[str, tuple[Runner, float | None]] = {"JAX": (ours, None)}
    with tempfile.TemporaryDirectory() as folder:
        for name, form in FORMATS.items():
            path = Path(folder) / name
            try:
                form.write(path, model, variables, False, *size)
                runners[name] = form.load(path), path.stat().st_size / 1e6
            except UserError as error:
                yield {"note": f"{name}: {error}"}
        yield {"note": f"{settings.tracklets} tracklets of {slots} frames, {size[0]}x{size[1]}"}
        seconds: dict[str, list[float]] = {name: [] for name in runners}
        found = {name: runner(frames, mask) for name, (runner, _) in runners.items()}  # compiled
        for _ in range(settings.rounds * settings.steps):  # by turns: what else runs hits all
            for name, (runner, _) in runners.items():
                start = time.perf_counter()
                runner(frames, mask)
                seconds[name].append(time.perf_counter() - start)
        for name, (_, size_mb) in runners.items():
            yield {
                "program": name,
                "frames/s": mask.sum() / statistics.median(seconds[name]),
                "best": mask.sum() / min(seconds[name]),
                "MB": size_mb,
                "largest difference": largest_difference(expected, found[name]),
            }
