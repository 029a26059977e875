"""One writer of a gallery at a time, in a folder or in an object store."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stf_jax.errors import UserError, import_extra
from stf_jax.folder_lock import one_owner
from stf_jax.gallery.table import connect, is_remote, reported

WRITER = "writer"  # a table beside the gallery's, there while an object store's is written


@contextmanager
def one_writer(where: str) -> Iterator[None]:
    """Owns the gallery inside; UserError, which names the other one, where it is being written.

    A folder has a lock of the system, which ends with its process. An object store has none, but
    makes an object of a name once only: a table, which a killed process leaves behind (`unlock`).
    """
    if not is_remote(where):
        with one_owner(Path(where)):
            yield
        return
    pa = import_extra("pyarrow", "gallery")
    database = connect(where)
    this = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "start": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with reported(where):
        try:
            database.create_table(WRITER, data=pa.Table.from_pylist([this]))
        except ValueError as error:
            if "already exists" not in str(error):
                raise
            raise UserError(
                f"{where}: is being written by {_writer(database)}; wait until it ends, or, if it "
                f"was killed: python -m stf_jax.gallery unlock {where}"
            ) from None
    try:
        yield
    finally:
        _release(database, where)


def unlock(where: str) -> str:
    """Release what a killed writer of an object store's gallery left; return who that was.

    Raises UserError where nothing is being written, and for a folder, which needs none.
    """
    if is_remote(where):
        database = connect(where)
        with reported(where):
            if WRITER in database.list_tables().tables:
                said = _writer(database)
                _release(database, where)
                return said
    raise UserError(f"{where}: is not being written; there is nothing to unlock")


def _writer(database: Any) -> str:
    try:
        (row,) = database.open_table(WRITER).to_arrow().to_pylist()
        return "process {process} on {host} since {start}".format_map(row)
    except (ValueError, KeyError, RuntimeError, OSError):  # it is being made or released just now
        return "another process"


def _release(database: Any, where: str) -> None:
    with reported(where):
        database.drop_table(WRITER)
