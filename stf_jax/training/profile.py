"""A profiler trace of some training steps."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax


@contextmanager
def profiled(
    train_step: Callable[..., Any],
    *,
    done: int,
    first: int,
    last: int,
    folder: Path,
    report: Callable[[str], None],
) -> Iterator[Callable[..., Any]]:
    """Give `train_step`, of which the steps `first` to `last` (from 1) are traced into `folder`.

    `done` steps were taken before. Of a run that begins or ends between the two, the steps that it
    takes are traced. `report` is called when the trace is written.
    """
    numbers, traced, newest = itertools.count(done + 1), [], None

    def step(*arguments: Any) -> Any:
        nonlocal newest
        number = next(numbers)
        if first <= number <= last:
            if not traced:
                jax.profiler.start_trace(str(folder))
            traced.append(number)
        newest = train_step(*arguments)
        if number == last:
            end()
        return newest

    def end() -> None:
        if traced:
            jax.block_until_ready(newest)
            jax.profiler.stop_trace()
            report(f"profile of steps {traced[0]} to {traced[-1]} written to {folder}")
            traced.clear()

    try:
        yield step
    finally:
        end()
