"""What a run tells people as it goes: on standard error, and in train.log of its workdir.

A terminal gets messages and a bar; anything else (a pipe, a scheduler's file) and train.log get a
line with the date for each, the progress among them.
"""

import contextlib
import logging
import logging.handlers
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from stf_jax.errors import UserError

LOG_FILE = "train.log"
_DATED = logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S")
_MANY = 1_000_000  # records kept until there is a file

_NAME = "stf_jax.run"
_package = logging.getLogger("stf_jax")


def on_terminal() -> bool:
    """Whether standard error is a terminal that is still there."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # closed
        return False


class _Screen(logging.Handler):
    """Prints to standard error without tearing a progress bar; to nobody where it is closed."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record; a warning only where no other handler of the program does."""
        if record.name != _NAME and logging.getLogger().handlers:
            return
        with contextlib.suppress(OSError, ValueError, AttributeError):
            tqdm.write(self.format(record), file=sys.stderr)
            sys.stderr.flush()


class _File(logging.FileHandler):
    """Writes train.log; what cannot be written is lost, and that is reported once."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """In place of a traceback for each record."""
        if not self.failed:
            self.failed = True
            reason = sys.exc_info()[1]
            said = f"{self.baseFilename}: cannot be written ({reason}); its lines are lost"
            _Screen().handle(logging.LogRecord(_NAME, logging.INFO, "", 0, said, None, None))

    def close(self) -> None:
        """Close the file, whose last lines may be lost, too."""
        with contextlib.suppress(OSError):
            super().close()


class RunLog:
    """Messages of one run, and of all of this package's loggers; a context manager.

    Of several hosts the first one alone has it do something (`writes`).
    """

    def __init__(self, *, writes: bool = True) -> None:
        self.writes = writes
        self._begun: tuple[float, int] | None = None
        self._kept = logging.handlers.MemoryHandler(_MANY, flushLevel=sys.maxsize)
        self._handlers: list[logging.Handler] = []

    def __enter__(self) -> "RunLog":
        """Listen; what is said is kept until `open`."""
        if self.writes:
            screen = _Screen()
            if not on_terminal():
                screen.setFormatter(_DATED)
            self._add(screen)
            self._add(self._kept)
        return self

    def open(self, workdir: Path) -> None:
        """Write to train.log in `workdir` from now on, after what was said before."""
        if not self.writes:
            return
        file = _File(workdir / LOG_FILE, encoding="utf-8")
        file.setFormatter(_DATED)
        self._kept.setTarget(file)
        self._kept.flush()
        self._remove(self._kept)
        self._add(file)

    def say(self, text: str) -> None:
        """Tell `text`, one line or several."""
        self._tell(text, self._handlers)

    def progress(
        self,
        step: int,
        total_steps: int,
        epoch: int,
        epochs: int,
        values: Mapping[str, float],
        rates: Mapping[str, float],
    ) -> None:
        """Tell how far training is; a terminal has its bar for that.

        `values` are loss, accuracy in [0, 1] and frames_per_second; `rates` the learning rates of
        the parameter groups. The time left is by the steps since the first call.
        """
        now = time.monotonic()
        if self._begun is None:
            self._begun = now, step
        since, first = self._begun
        parts = [f"epoch {epoch}/{epochs}", f"step {step}/{total_steps}"]
        parts.append(f"loss {values['loss']:.3f}")
        if "accuracy" in values:
            parts.append(f"accuracy {100 * values['accuracy']:.1f} %")
        parts.append(f"learning rate {_rates(rates)}")
        parts.append(f"{values['frames_per_second']:.0f} frames/s")
        if first < step < total_steps:
            seconds = (now - since) / (step - first) * (total_steps - step)
            parts.append(f"{tqdm.format_interval(seconds)} left")
        bar = on_terminal()
        lines = [h for h in self._handlers if not (bar and isinstance(h, _Screen))]
        self._tell(", ".join(parts), lines)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Listen no longer; what ended the run, which the command prints, is in train.log, too."""
        if isinstance(error, UserError):
            files = [h for h in self._handlers if isinstance(h, logging.FileHandler)]
            self._tell(f"error: {error}", files)
        for handler in list(self._handlers):
            self._remove(handler)

    def _tell(self, text: str, handlers: Sequence[logging.Handler]) -> None:
        """Directly: a handler of the program's own would print it once more."""
        for handler in handlers:
            handler.handle(logging.LogRecord(_NAME, logging.INFO, "", 0, text, None, None))

    def _add(self, handler: logging.Handler) -> None:
        self._handlers.append(handler)
        _package.addHandler(handler)

    def _remove(self, handler: logging.Handler) -> None:
        self._handlers.remove(handler)
        _package.removeHandler(handler)
        handler.close()


def percents(scores: Mapping[str, float]) -> str:
    """Scores in [0, 1] as "mAP 70.6 %, rank-1 66.7 %"."""
    return ", ".join(f"{name} {100 * value:.1f} %" for name, value in scores.items())


def _rates(rates: Mapping[str, float]) -> str:
    """The first group's learning rate, and those of the groups that have another."""
    first, *others = rates.items()
    unlike = [f"{group} {rate:.3g}" for group, rate in others if rate != first[1]]
    return f"{first[1]:.3g}" + (f" ({', '.join(unlike)})" if unlike else "")
