"""A polite end: SIGTERM or Ctrl-C lets the step in flight end and a checkpoint be written."""

import signal
from typing import Any


class RunStoppedError(Exception):
    """A run ended before its last step because it was told to; its checkpoint is written.

    `status` is what shells expect of a program that a signal ended: 128 and the signal's number.
    """

    def __init__(self, signal_name: str) -> None:
        super().__init__(signal_name)
        self.status = 128 + signal.Signals[signal_name].value


class StopRequest:
    """Turns SIGTERM and the first Ctrl-C into a flag: finish the step, save, leave."""

    def __init__(self) -> None:
        self.name = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        """Listen from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: the caller's business
                return self
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.name = signal.Signals(number).name
        signal.signal(number, self._before[number])

    def __exit__(self, *_: object) -> None:
        """Listen no longer."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
