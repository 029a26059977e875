"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""

import contextlib
import errno
import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec

MAX_LINES = 10  # of an error that is printed
MAX_LENGTH = 1000  # of each of them
Arguments = ParamSpec("Arguments")
# Of a disk, a network or a permission: they say nothing about what a file holds.
_FAULTS = tuple(
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH"),
        *("ENETDOWN", "ENETUNREACH", "EREMOTEIO", "ENODEV", "ENXIO", "EACCES", "EPERM", "EROFS"),
        *("ENOSPC", "EDQUOT", "EFBIG", "EMFILE", "ENFILE", "ENOLCK"),
    )
    if hasattr(errno, name)
)


class UserError(Exception):
    """Bad input, described in full: the file, what was found, what was expected, how to fix it.

    The message is one line per finding. Command line entry points print it to standard error
    and exit with status 2 (`prints_user_errors`); only other exceptions show a traceback.
    """


def import_extra(name: str, extra: str) -> Any:
    """Return the module `name`, of a package that only `extra` of pyproject.toml installs.

    Raises UserError, one line, where it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name}: the package is not installed; expected the extra {extra}: "
            f"pip install 'stf-jax[{extra}]'"
        ) from error


def system_fault(error: BaseException) -> OSError | None:
    """The failure of a disk, a network or a permission that `error` comes from, if it does.

    Reading again can succeed, so that nothing may be thought damaged because of it. Of libraries
    that raise their own errors the text is looked at.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FAULTS:
            return cause
        cause = cause.__cause__ or cause.__context__
    text = str(error)
    number = next((number for number in _FAULTS if os.strerror(number) in text), None)
    return None if number is None else OSError(number, os.strerror(number))


def raise_system_fault(error: BaseException, file: str | os.PathLike[str]) -> None:
    """Raise OSError, with the file's name, where `error` comes from a `system_fault`.

    Or where the file or folder cannot be read now: some libraries say nothing of the system.
    """
    fault = system_fault(error)
    try:
        if os.path.isdir(file):
            os.listdir(file)
        else:
            with open(file, "rb") as stream:
                stream.read(1)
    except OSError as again:
        fault = fault or system_fault(again)
    if fault is not None:
        raise OSError(fault.errno, os.strerror(fault.errno or 0), os.fspath(file)) from error


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
    """Decorate a command: where it raises UserError, its lines are printed and the status is 2.

    So is a line for what the system refuses: a full disk, a network folder that is gone.
    """

    @functools.wraps(main)
    def command(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        with _lasting_streams():
            try:
                return main(*args, **kwargs)
            except UserError as error:
                print(f"error: {shortened(str(error))}", file=sys.stderr)
                return 2
            except OSError as error:
                if error.errno is None:
                    raise
                where = error.filename or "a file or folder"
                reason = f"{os.fsdecode(where)}: {error.strerror or error}"
                hint = "what was written whole stays; fix it and run the same command again"
                print(f"error: {shortened(f'{reason}; {hint}')}", file=sys.stderr)
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
