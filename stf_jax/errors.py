"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec

MAX_LINES = 10  # of an error that is printed
MAX_LENGTH = 1000  # of each of them
Arguments = ParamSpec("Arguments")


class UserError(Exception):
    """Bad input, described in full: the file, what was found, what was expected, how to fix it.

    The message is one line per finding. Command line entry points print it to standard error
    and exit with status 2 (`prints_user_errors`); only other exceptions show a traceback.
    """


def shortened(text: str) -> str:
    """`text`, of more than ten lines the first ten and how many more there are.

    What a file holds can be in a line: of a long one the middle is left out.
    """
    half = MAX_LENGTH // 2
    lines = [
        line if len(line) <= MAX_LENGTH else f"{line[:half]} ... {line[-half:]}"
        for line in text.split("\n")
    ]
    if len(lines) <= MAX_LINES:
        return "\n".join(lines)
    return "\n".join([*lines[:MAX_LINES], f"... and {len(lines) - MAX_LINES} lines more"])


def prints_user_errors(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """Decorate a command: where it raises UserError, its lines are printed and the status is 2."""

    @functools.wraps(main)
    def command(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        with _lasting_streams():
            try:
                return main(*args, **kwargs)
            except UserError as error:
                print(f"error: {shortened(str(error))}", file=sys.stderr)
                return 2

    return command


@contextlib.contextmanager
def _lasting_streams() -> Iterator[None]:
    """Inside, what is printed where nobody reads any more (`| head`, `>&-`) is dropped."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file to be opened would get what is printed
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Lasting, before)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        lasting, (sys.stdout, sys.stderr) = (sys.stdout, sys.stderr), before
        for stream, old in zip(lasting, before, strict=True):
            stream.flush()
            if old is None:
                stream.close()


class _Lasting:
    """A text stream, or None, that does not fail once its reader is gone."""

    def __init__(self, stream: Any) -> None:
        self._stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115

    def write(self, text: str) -> int:
        """Write, or drop, `text`."""
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or drop, what is written."""
        with self._dropping():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):
            # What is kept in buffers would fail again when Python ends, which changes its status.
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
