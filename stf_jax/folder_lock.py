"""One owner of a folder: while one process writes into it, a second one is refused."""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stf_jax.errors import UserError

# Hidden, as `files.is_leftover` passes it over; there while the folder is owned.
LOCK_FILE = ".stf_jax.lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}
_held: set[int] = set()  # descriptors of locks


@contextlib.contextmanager
def one_owner(folder: Path, name: str = LOCK_FILE) -> Iterator[Callable[[], None]]:
    """Owns `folder` inside: a second owner, in this process or any other, is refused.

    The folder is made if need be, and removed where the block leaves it empty. The lock is one of
    the system's on the file `name` in it: it ends with the process, however that ends, and the
    file a killed one leaves is taken over. Where the file system has no locks, the file itself is
    the lock; that of a process of this machine that is no more is taken over, that of another
    machine is refused. Nothing that only reads needs a lock.

    Args:
        folder: what is to be written.
        name: of the lock's file. Two owners of other names do not know of each other: for those
            that write other files of the folder (`.<file>.lock`).

    Returns:
        A function that raises UserError where the folder was removed, or is no longer this one,
        and OSError where it cannot be reached.

    Raises:
        UserError: the folder has an owner, whose host, process and start are named; or it cannot
            be written.
    """
    folder, path = Path(folder), Path(folder) / name
    with contextlib.ExitStack() as stack:
        try:
            made = _make(folder)
            stack.callback(_remove_empty, made)
            descriptor = _taken(path)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be written ({error.strerror or error}); expected a folder, or "
                "the name of a new one, that this user may write"
            ) from error
        stack.callback(_release, path, descriptor)

        def check() -> None:
            # A network that is gone is none of these: it raises OSError.
            if not _is_there(path, descriptor):
                raise UserError(
                    f"{folder}: was removed or replaced while it was written; what was in it is "
                    "lost; start again, in a folder that stays"
                )

        yield check


def _make(folder: Path) -> list[Path]:
    """Makes `folder`; returns it and the folders above it that were not there."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is a file")
    missing = [at for at in (folder, *folder.parents) if not at.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _taken(path: Path) -> int:
    """The lock's open file, which names this process; raises UserError where another has it."""
    while True:
        descriptor, created = _opened(path)
        try:
            is_ours = _lock(path, descriptor, created)
        except BaseException:
            os.close(descriptor)
            raise
        # Else its owner has just ended and removed it.
        if is_ours and _is_file_of(path, descriptor):
            break
        os.close(descriptor)
    _held.add(descriptor)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_this_process()).encode(), 0)
    except OSError:
        _release(path, descriptor)
        raise
    return descriptor


def _opened(path: Path) -> tuple[int, bool]:
    """The open file and whether this call made it."""
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                return os.open(path, os.O_RDWR), False


def _lock(path: Path, descriptor: int, created: bool) -> bool:
    """Locks the open file; False where it is to be tried again, as its owner is no more."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        raise _refusal(path, _read(descriptor), "wait until it ends") from None
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    if created:
        return True
    owner = _read(descriptor)
    if not _is_over(owner):
        hint = f"wait until it ends, or remove {path} if it has ended"
        raise _refusal(path, owner, hint)
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    path.rename(aside)
    if _is_file_of(aside, descriptor):
        aside.unlink()
    else:  # another process was quicker: this is its lock
        aside.rename(path)
    return False


def _refusal(path: Path, owner: dict[str, Any], hint: str) -> UserError:
    said = "process {process} on {host} since {start}".format_map(
        {"process": "unknown", "host": "an unknown host", "start": "an unknown time", **owner}
    )
    return UserError(f"{path.parent}: is being written by {said}; {hint}, or name another folder")


def _release(path: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError):
        if _is_file_of(path, descriptor):
            path.unlink()
    _held.discard(descriptor)
    os.close(descriptor)


def _is_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _is_file_of(path: Path, descriptor: int) -> bool:
    try:
        return _is_there(path, descriptor)
    except OSError:
        return False


def _read(descriptor: int) -> dict[str, Any]:
    """What the lock's file says of its owner; nothing where it is being written."""
    try:
        found = json.loads(os.pread(descriptor, 10_000, 0))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _this_process() -> dict[str, Any]:
    process = os.getpid()
    return {
        "host": socket.gethostname(),
        "process": process,
        "start": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "ticks": _ticks(process),
    }


def _machine() -> str:
    """Another text where a process id means another process: other boot, other container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _ticks(process: int) -> str:
    """When `process` started, in ticks of its machine; "" where there is no such process."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _is_over(owner: dict[str, Any]) -> bool:
    """Whether the process that wrote the lock's file is known to be no more."""
    if owner.get("machine") != _machine() or not os.path.isdir("/proc/self"):
        return False
    return not owner.get("ticks") or _ticks(int(owner["process"])) != owner["ticks"]


def _forget() -> None:
    """A forked child would keep its parent's locks for as long as it lives."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
