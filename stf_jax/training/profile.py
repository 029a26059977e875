"""A profiler trace of some training steps."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax


def profiled(
    train_step: Callable[..., Any],
    *,
    done: int,
    first: int,
    last: int,
    folder: Path,
    report: Callable[[str], None],
) -> Callable[..., Any]:
    """Return `train_step`, of which the steps `first` to `last` (from 1) are traced into `folder`.

    `done` steps were taken before. `report` is told when the trace is written.
    """
    numbers = itertools.count(done + 1)

    def step(*arguments: Any) -> Any:
        number = next(numbers)
        if number == first:
            jax.profiler.start_trace(str(folder))
        found = train_step(*arguments)
        if number == last:
            jax.block_until_ready(found)
            jax.profiler.stop_trace()
            report(f"profile of steps {first} to {last} written to {folder}")
        return found

    return step
