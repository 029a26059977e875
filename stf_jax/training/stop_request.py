"""Graceful stop: SIGTERM or Ctrl-C lets the step in flight end and a checkpoint be written.

SIGTERM is also how machines that are about to be taken away (preempted) say so.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

from stf_jax import hosts


class RunStoppedError(Exception):
    """A run ended before its last step because of a signal; its checkpoint is written.

    `signal_name` is "SIGTERM" or "SIGINT", and what else is to be said. `status` is what shells
    expect of a program that a signal ended: 128 and the signal's number.
    """

    def __init__(self, signal_name: str) -> None:
        super().__init__(signal_name)
        self.status = 128 + signal.Signals[signal_name.split()[0]].value


@contextlib.contextmanager
def outlives_its_terminal() -> Iterator[None]:
    """Inside, SIGHUP does nothing: a terminal or connection that is closed ends no run."""
    try:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    except ValueError:  # not the main thread: the caller's business
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


class StopRequest:
    """Turns SIGTERM and the first Ctrl-C into a flag: finish the step, save, leave.

    Of several hosts any may get it; all stop after the same step, which jax agrees on.
    """

    def __init__(self) -> None:
        self.name = ""
        self._calls = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        """Listen from now on."""
        # With several hosts jax handles SIGTERM itself, to notify the others.
        numbers = (signal.SIGINT,) if hosts.several() else (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: the caller's business
                return self
        return self

    def _note(self, number: int, frame: Any) -> None:
        signal.signal(number, self._before[number])
        name = signal.Signals(number).name
        # Not through a stream: the signal may have come in the middle of a write to it.
        with contextlib.suppress(OSError):
            os.write(
                2, f"\n{name}: stopping after this step; a checkpoint is written first\n".encode()
            )
        if hosts.several():
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.name = name

    def reached(self) -> bool:
        """Whether to stop; to be called before each step, on all hosts."""
        # Not the run's step: a notice from before the first call means the second one.
        if hosts.noticed(self._calls):
            self.name = "SIGTERM at one of the hosts"
        self._calls += 1
        return bool(self.name)

    def __exit__(self, *_: object) -> None:
        """Listen no longer."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
