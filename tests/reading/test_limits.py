"""Files of bounded size, and JSON of bounded depth."""

import os
import threading
from pathlib import Path

import pytest

from stf_jax.reading.limits import read_bytes, read_json, read_text


def test_up_to_the_limit_and_beyond(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for size in (0, 1, 10):
        path.write_bytes(b"a" * size)
        assert read_bytes(path, 10) == b"a" * size
    path.write_bytes(b"a" * 11)
    with pytest.raises(ValueError, match="larger than"):
        read_bytes(path, 10)
    with open(path, "ab") as file:
        file.truncate(2**40)  # without a byte of disk
    with pytest.raises(ValueError, match="larger than 1024 MiB"):
        read_text(path)
    with pytest.raises(OSError, match="directory"):
        read_bytes(tmp_path, 10)


def test_a_pipe_and_a_device_without_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"\xef\xbb\xbfabc",))
    writer.start()
    assert read_text(tmp_path / "pipe") == "abc"
    writer.join()
    with pytest.raises(ValueError, match="larger than"):
        read_bytes("/dev/zero", 1000)


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, 2.5, null]}')
    assert read_json(path) == {"a": [1, 2.5, None]}
    for text in ("[" * 100_000, '{"a":' * 100_000, "9" * 5000, "nothing", ""):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"deep|digits|Expecting"):
            read_json(path)
