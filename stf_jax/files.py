"""Atomic writes: a file appears complete or not at all. What systems leave in folders."""

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

TEMPORARY_SUFFIX = ".part"
# Of macOS, Windows, Linux, Synology and QNAP, in lower case; hidden ones besides.
_LEFTOVERS = {
    *("__macosx", "icon\r", "$recycle.bin", "recycler", "system volume information", "thumbs.db"),
    *("ehthumbs.db", "desktop.ini", "lost+found", "@eadir", "#recycle", "@recycle"),
}


def is_leftover(name: str) -> bool:
    """Whether a file or folder is hidden (`._a.jpg`) or of an operating system, not a user's."""
    return name.startswith(".") or name.lower() in _LEFTOVERS


def leftovers_note(folder: Path, names: Sequence[str]) -> str:
    """A line that says how many `names` below `folder` were passed over."""
    return (
        f"{folder}: {len(names):,} hidden files and leftovers of operating systems passed over "
        f"(e.g. {', '.join(sorted(names)[:3])})"
    )


@contextlib.contextmanager
def atomic_write(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Gives a temporary name next to `path` to write; it becomes `path` when the block ends.

    The name is `<path.name>.<8 hex digits>.part`, another one at each call. It is removed where
    the block raises; only a killed process leaves one behind.

    Args:
        path: file to write or to replace; its folder exists.
        sync: whether to wait for the disk, so that a power cut cannot leave an empty file. Off for
            many small files that can be made again: it can cost more than writing them.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        if sync:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def csv_cell(text: str) -> str:
    """`text` as a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
