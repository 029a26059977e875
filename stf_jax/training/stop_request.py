"""A polite end: SIGTERM or Ctrl-C lets the step in flight end and a checkpoint be written."""

import signal
from typing import Any


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
