"""Part `drawn-long`: the runs of `drawn-run`, trained ten times as long."""

from collections.abc import Iterator

from benchmarking import drawn_run
from benchmarking.child import Row
from benchmarking.settings import Settings


def run(settings: Settings) -> Iterator[Row]:
    """Yield a row a run, the models by turns."""
    yield from drawn_run.runs(settings, drawn_run.MODELS, drawn_run.LONGER)
