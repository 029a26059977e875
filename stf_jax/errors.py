"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

MAX_LINES = 10  # of an error that is printed
Arguments = ParamSpec("Arguments")


class UserError(Exception):
    """Bad input, described in full: the file, what was found, what was expected, how to fix it.

    The message is one line per finding. Command line entry points print it to standard error
    and exit with status 2 (`prints_user_errors`); only other exceptions show a traceback.
    """


def shortened(text: str) -> str:
    """`text`, of more than ten lines the first ten and how many more there are."""
    lines = text.split("\n")
    if len(lines) <= MAX_LINES:
        return text
    return "\n".join([*lines[:MAX_LINES], f"... and {len(lines) - MAX_LINES} lines more"])


def prints_user_errors(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """Decorate a command: where it raises UserError, its lines are printed and the status is 2."""

    @functools.wraps(main)
    def command(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print(f"error: {shortened(str(error))}", file=sys.stderr)
            return 2

    return command
