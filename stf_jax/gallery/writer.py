"""One writer of a gallery at a time, in a folder or in an object store."""

import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stf_jax.errors import UserError, import_extra
from stf_jax.folder_lock import one_owner
from stf_jax.gallery.table import REACHED, is_remote

LOCK = "writer.json"  # beside the tables, there while a gallery in an object store is written


@contextmanager
def one_writer(where: str) -> Iterator[None]:
    """Owns the gallery inside; UserError, which names the other one, where it is being written.

    A folder has a lock of the system, which ends with its process. An object store has none, but
    makes an object only where there is none of its name: a killed process leaves that (`unlock`).
    A table of LanceDB would not do: of two that create it at once, both may succeed.
    """
    if not is_remote(where):
        with one_owner(Path(where)):
            yield
        return
    this = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "start": datetime.now(UTC).isoformat(timespec="seconds"),
        "token": uuid.uuid4().hex,
    }
    with _store(where) as store:
        _acquire(store, where, this)
    try:
        yield
    finally:
        with _store(where) as store:
            if _holder(store) == this:  # not another's, whom `unlock` let in
                store.delete(LOCK)


def unlock(where: str) -> str:
    """Release what a killed writer of an object store's gallery left; return who that was.

    Raises UserError where nothing is being written, and for a folder, which needs none.
    """
    if is_remote(where):
        with _store(where) as store:
            if (holder := _holder(store)) is not None:
                store.delete(LOCK)
                return _said(holder)
    raise UserError(f"{where}: is not being written; there is nothing to unlock")


def _acquire(store: Any, where: str, this: dict[str, Any]) -> None:
    exists = import_extra("obstore.exceptions", "gallery").AlreadyExistsError
    try:
        store.put(LOCK, json.dumps(this).encode(), mode="create")
    except exists:
        holder = _holder(store)
        if holder == this:  # a request whose answer was lost is sent again
            return
        raise UserError(
            f"{where}: is being written by {_said(holder)}; wait until it ends, or, if it was "
            f"killed: python -m stf_jax.gallery unlock {where}"
        ) from None


def _holder(store: Any) -> Any:
    """What the object says of who writes, a dict if it is ours; None where there is none."""
    try:
        return json.loads(bytes(store.get(LOCK).bytes()))
    except FileNotFoundError:
        return None


def _said(holder: Any) -> str:
    try:
        return "process {process} on {host} since {start}".format(**(holder or {}))
    except (KeyError, TypeError):  # it has ended just now, or the object is not one of ours
        return "another process"


@contextmanager
def _store(where: str) -> Iterator[Any]:
    """The object store at an address; UserError, a line, for what it refuses inside."""
    obstore = import_extra("obstore", "gallery")
    try:
        yield obstore.store.from_url(where)
    except (obstore.exceptions.BaseError, ValueError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{where}: its lock {LOCK} cannot be read or written ({reason:.300}); "
            f"expected {REACHED}"
        ) from error
