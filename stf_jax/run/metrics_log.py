"""What a run measures as it goes: metrics.jsonl for programs, TensorBoard files for people, a bar.

metrics.jsonl has one JSON object a line: "step" (training steps done), "time" (seconds since 1970),
and numbers, or lists of numbers, by name. It is cut back to the step a run resumes from, so that a
killed and resumed run has the lines of one that was not, but for what `TIMES` names.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from stf_jax.files import atomic_write
from stf_jax.reading.limits import parse_json
from stf_jax.run.run_log import on_terminal

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
# What depends on the clock: the only fields that differ after a kill.
TIMES = ("time", "frames_per_second", "data_wait")
_RATES = ("epoch", "frames_per_second", "data_wait")


class MetricsLog:
    """Open log of one run; a context manager.

    When `write` returns, its entry is in metrics.jsonl and the event file.
    Write the entries of a step before saving that step: what is not written when the run is killed
    is not written again.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        resume_step: int = 0,
        *,
        tensorboard: bool = True,
        writes: bool = True,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Opens the files in `workdir` (made if need be), cut back to `resume_step`.

        Args:
            workdir: folder of the run; files of an earlier start of it are gone on with.
            resume_step: training steps done; 0 at the start of a run, which leaves no entry.
            tensorboard: whether to write event files too, into `workdir`/tensorboard.
            writes: False for a log that touches nothing: another host writes it.
            config: values by dotted key, shown by TensorBoard as text.
        """
        self._lines = self._events = None
        if not writes:
            return
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        # A run that has done no step evaluates once more what it evaluates before the first.
        cut_back(workdir / METRICS_FILE, resume_step or -1)
        self._lines = open(workdir / METRICS_FILE, "a", encoding="utf-8")  # noqa: SIM115
        self._events = (
            _open_events(workdir / TENSORBOARD_FOLDER, resume_step) if tensorboard else None
        )
        if self._events is not None and config:
            lines = [f"    {key} = {value!r}" for key, value in config.items()]  # Markdown: as code
            from tensorboardX.summary import text

            _add(self._events, text("config", "\n".join(lines)), resume_step)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one entry: `values` are numbers (Python, numpy or jax scalars) or 1-d arrays.

        Lists go to metrics.jsonl only. NaN and infinity are null there (JSON has none).
        """
        if self._lines is None:
            return
        now = time.time()
        entry = {name: np.asarray(value).tolist() for name, value in values.items()}
        line = {"step": int(step), "time": round(now, 3), **{n: _json(v) for n, v in entry.items()}}
        self._lines.write(json.dumps(line, allow_nan=False) + "\n")
        self._lines.flush()
        if self._events is not None:
            from tensorboardX.summary import scalar

            for name, value in entry.items():
                if not isinstance(value, list):
                    _add(self._events, scalar(_tag(name), value), int(step), now)
            self._events.flush()

    def close(self) -> None:
        """Closes the files."""
        with ExitStack() as stack:  # each, though another one fails
            for file in (self._lines, self._events):
                if file is not None:
                    stack.callback(file.close)

    def __enter__(self) -> "MetricsLog":
        """Gives the log itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the files."""
        self.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Entries of a metrics.jsonl in order, without broken lines; none where there is no file."""
    return [entry for _, entry in _whole_lines(Path(path))]


def cut_back(path: str | os.PathLike[str], step: int) -> None:
    """Drops the entries after `step`, and broken lines, from a metrics.jsonl; all or nothing."""
    path = Path(path)
    if not path.exists():
        return
    kept = [line + b"\n" for line, entry in _whole_lines(path) if entry["step"] <= step]
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"".join(kept))


def progress_bar(total_steps: int, done: int = 0, *, shown: bool = True) -> tqdm:
    """Bar with rate and time left, from `done` on; `update()` per step, `set_postfix(loss=...)`.

    A terminal alone gets it: elsewhere `run_log` tells the progress in lines.
    """
    return tqdm(
        total=total_steps,
        initial=done,
        unit="step",
        mininterval=0.2,
        dynamic_ncols=True,
        disable=not (shown and on_terminal()),
    )


def _whole_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            entry = parse_json(line)
        except ValueError:  # cut off in the middle, by a kill or a full disk
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            yield line, entry


def _open_events(folder: Path, resume_step: int) -> "EventsWriter":
    """Writes in this thread, so that a full disk is an error here, and nothing waits for it."""
    # Here, because it imports PyTorch where that is installed, which takes seconds.
    from tensorboardX.event_file_writer import EventsWriter

    resumes = any(folder.glob("events.out.tfevents.*"))
    folder.mkdir(exist_ok=True)
    # Another file also within the same second.
    events = EventsWriter(os.fspath(folder / "events"), f".{time.time_ns()}")
    if resumes:  # hides what earlier files have from this step on
        step = resume_step + 1 if resume_step else 0
        events.write_event(_event(step=step, file_version="brain.Event:2"))
        events.write_event(_event(step=step, session_log={"status": "START"}))
    return events


def _add(events: "EventsWriter", found: Any, step: int, at: float | None = None) -> None:
    events.write_event(_event(summary=found, step=step, wall_time=at or time.time()))


def _event(**fields: Any) -> Any:
    from tensorboardX.proto import event_pb2

    return getattr(event_pb2, "Event")(**fields)  # noqa: B009 (made when it is imported)


def _tag(name: str) -> str:
    """TensorBoard's name of a metric: in the section of losses, of rates or of scores."""
    group, _, rest = name.rpartition("/")
    if group == "lr":
        return f"rates/learning_rate_{rest}"
    if group:  # protocol/score
        return f"scores/{name}"
    return f"{'rates' if name in _RATES else 'losses'}/{name}"


def _json(value: Any) -> Any:
    if isinstance(value, list):
        return [_json(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
