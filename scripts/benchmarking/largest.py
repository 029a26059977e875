"""Part `largest`: the most tracklets that a training step holds on this device."""

from collections.abc import Callable, Iterator

import jax

from benchmarking import child, peer, workload
from benchmarking.child import NotRunError, Row
from benchmarking.memory import full_batch
from benchmarking.settings import Settings, changed

# The default keeps a quarter of a GPU's memory for others.
WHOLE_GPU = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"}


def run(settings: Settings) -> Iterator[Row]:
    """Yield a row a try, in bfloat16, then with recomputation and in float32, then the peer's."""
    if settings.platform == "cpu":
        raise NotRunError("the largest batch is looked for on accelerators only")
    yield {"note": f"tracklets of {settings.slots} frames a step, two steps each"}
    for dtype, remat in (("bfloat16", False), ("bfloat16", True), ("float32", False)):
        kind = f"{dtype}{', remat' if remat else ''}"
        own = changed(settings, dtype=dtype, remat=remat)
        fits: dict[int, bool] = {}
        for tracklets, fitted in tries(own):
            fits[tracklets] = fitted
            yield {"try": kind, "tracklets": tracklets, "fits": fitted}
        low = max((size for size, fitted in fits.items() if fitted), default=0)
        yield largest_row(kind, low, low * settings.slots)
    for variant in ("plain", "tuned") if peer.absent() is None else ():
        found = peer.peer("memory", settings, variant)
        frames = found["computed_frames_per_step"]
        yield largest_row(f"peer, {variant}", found["tracklets"], frames)


def largest_row(kind: str, tracklets: int, frames: int) -> Row:
    """Return what is reported of one kind."""
    return {"largest batch": kind, "tracklets": tracklets, "frames": frames}


def tries(settings: Settings) -> Iterator[tuple[int, bool]]:
    """Yield sizes that were tried, and whether two training steps of them ran."""
    (row,) = child.rows_of(
        child.stream(__name__, "plan_of_memory", settings, environment=WHOLE_GPU)
    )
    guess = int(settings.tracklets * (row["limit"] - row["arguments"]) / row["between"])

    def fits(tracklets: int) -> bool:
        own = changed(settings, tracklets=tracklets)
        found = child.stream(__name__, "one_step", own, environment=WHOLE_GPU)
        if found.status == "failed" and "RESOURCE_EXHAUSTED" in found.reason:
            return False
        return child.rows_of(found)[0]["fits"]

    yield from bracket(fits, guess)


def bracket(fits: Callable[[int], bool], guess: int) -> Iterator[tuple[int, bool]]:
    """Try sizes until one that does not fit is at most an eighth (or 1) above one that does.

    Starts at `guess`, and goes up or down by an eighth until the other side is found. 0 is taken
    to fit.
    """
    low, high, size = 0, 0, max(guess, 1)
    while not high or high - low > max(1, low // 8):
        fitted = fits(size)
        yield size, fitted
        if fitted:
            low = size
        else:
            high = size
        if not high:
            size = low + max(1, low // 8)
        elif not low:
            size = high - max(1, high // 8)
        else:
            size = (low + high) // 2


def plan_of_memory(settings: Settings) -> Iterator[Row]:
    """Yield the device's limit, and what the compiler plans for a full training step."""
    run, batch = full_batch(settings)
    found = workload.compile_training(run, batch).call.memory_analysis()
    limit = (jax.local_devices()[0].memory_stats() or {})["bytes_limit"]
    yield {
        "limit": limit,
        "arguments": found.argument_size_in_bytes,
        "between": found.temp_size_in_bytes,
    }


def one_step(settings: Settings) -> Iterator[Row]:
    """Yield whether two full training steps run."""
    try:
        run, batch = full_batch(settings)
        program = workload.compile_training(run, batch)
        workload.train_steps(run, [(program, program.place(batch))] * 2)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        yield {"fits": False}
    else:
        yield {"fits": True}
