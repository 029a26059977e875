"""One owner of a folder: refused, read, left behind by a kill, taken over."""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stf_jax import folder_lock
from stf_jax.errors import UserError
from stf_jax.files import is_leftover
from stf_jax.folder_lock import LOCK_FILE, one_owner

ROOT = Path(__file__).parents[1]
OWNER = """
import sys
from pathlib import Path
from stf_jax.folder_lock import one_owner
with one_owner(Path(sys.argv[1])):
    print("owned", flush=True)
    sys.stdin.read()
"""


def owner_of(folder: Path) -> subprocess.Popen[str]:
    """Another process that owns `folder` until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "owned\n"
    return process


def test_a_second_owner_is_refused_by_a_line_that_names_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with owner_of(folder) as first:
        with pytest.raises(UserError) as refused, one_owner(folder):
            pass
        line = (
            rf"{re.escape(str(folder))}: is being written by process {first.pid} on "
            rf"{re.escape(socket.gethostname())} since 20\S+; wait until it ends, or name another "
            "folder"
        )
        assert re.fullmatch(line, str(refused.value))
        with one_owner(tmp_path / "other"), one_owner(folder, ".features.npz.lock"):
            pass
        (folder / "written").touch()
    again = one_owner(tmp_path / "run" / ".." / "run")
    with one_owner(folder), pytest.raises(UserError, match=f"process {os.getpid()} "), again:
        pass  # in this process, too
    assert [path.name for path in folder.iterdir()] == ["written"]
    assert is_leftover(LOCK_FILE)


def test_a_killed_owner_leaves_the_folder_free(tmp_path: Path) -> None:
    with owner_of(tmp_path / "run") as first:
        first.send_signal(signal.SIGKILL)
    assert (tmp_path / "run" / LOCK_FILE).exists()
    with one_owner(tmp_path / "run"):
        found = json.loads((tmp_path / "run" / LOCK_FILE).read_text())
        assert found["process"] == os.getpid()
    assert not any((tmp_path / "run").iterdir())


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    code = """
import os, sys, time
from pathlib import Path
from stf_jax.folder_lock import one_owner
with one_owner(Path(sys.argv[1])):
    begun = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(begun[1], b".")
        time.sleep(100)
    os.read(begun[0], 1)
    print(child, flush=True)
    os.kill(os.getpid(), 9)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
    with one_owner(tmp_path):
        os.kill(child, signal.SIGKILL)


def test_only_folders_that_were_made_and_left_empty_are_removed(tmp_path: Path) -> None:
    with pytest.raises(UserError), one_owner(tmp_path / "a" / "b"):
        raise UserError("a failed start")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    with one_owner(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").exists()


@pytest.mark.parametrize("how", ["file", "file above", "read-only", "full"])
def test_a_folder_that_cannot_be_written_is_one_line(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "file"
    if how.startswith("file"):
        folder.touch()
        folder = folder / "run" if how == "file above" else folder
    else:
        number = errno.EROFS if how == "read-only" else errno.ENOSPC

        def fails(*_: object) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "open" if how == "read-only" else "pwrite", fails)
    match = r": cannot be written \([\w -]+\); expected"
    with pytest.raises(UserError, match=match) as refused, one_owner(folder):
        pass
    assert "\n" not in str(refused.value)
    assert not folder.is_dir()


def test_the_owner_notices_that_the_folder_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with one_owner(folder) as check:
        check()
        folder.rename(tmp_path / "moved")
        with pytest.raises(UserError, match=f"^{re.escape(str(folder))}: was removed or replaced"):
            check()
        with one_owner(folder), pytest.raises(UserError, match="was removed or replaced"):
            check()  # another one's now
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]


def test_a_folder_that_cannot_be_reached_is_not_said_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    with one_owner(tmp_path / "run") as check:
        with monkeypatch.context() as patched:
            patched.setattr(os, "stat", fails)
            with pytest.raises(OSError, match="timed out"):
                check()
        check()


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no locks."""

    def fails(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fails)


def test_without_locks_the_file_is_the_lock(tmp_path: Path, no_locks: None) -> None:
    lock = tmp_path / LOCK_FILE
    with one_owner(tmp_path):
        own = json.loads(lock.read_text())
        with pytest.raises(UserError) as refused, one_owner(tmp_path):
            pass
        assert f"process {os.getpid()} on {socket.gethostname()}" in str(refused.value)
        assert f"or remove {lock} if it has ended" in str(refused.value)
    assert not lock.exists()

    with subprocess.Popen(["true"]) as ended:
        pass
    with subprocess.Popen(["sleep", "100"]) as lives:
        ticks = folder_lock._ticks(lives.pid)
        over = [{"process": ended.pid}, {"process": lives.pid}]  # its number given again
        runs = [{"process": lives.pid, "ticks": ticks}, {"machine": "another"}]
        for there in over:
            lock.write_text(json.dumps({**own, **there}))
            with one_owner(tmp_path):
                assert json.loads(lock.read_text())["process"] == os.getpid()
            assert not any(tmp_path.iterdir())
        for text in ["", *(json.dumps({**own, **there}) for there in runs)]:
            lock.write_text(text)
            with pytest.raises(UserError, match="is being written"), one_owner(tmp_path):
                pass
            assert lock.read_text() == text
        lives.kill()
