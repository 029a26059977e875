"""Bytes, text and JSON of files of bounded size.

Nothing here names the file: callers catch OSError and ValueError, and say what was expected of it.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

MIB = 2**20
MOST_TEXT = 1024 * MIB  # of a file of lines: tracks, lists of names
MOST_JSON = 64 * MIB


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes:
    """The whole file.

    Raises:
        OSError: it cannot be read.
        ValueError: it has more than `most` bytes.
    """
    with open(path, "rb") as file:
        about = os.fstat(file.fileno())
        size = about.st_size if stat.S_ISREG(about.st_mode) else 0
        content = b"" if size > most else file.read((size or most) + 1)
    if max(size, len(content)) > most:
        raise ValueError(f"larger than {most // MIB} MiB")
    return content


def read_text(path: str | os.PathLike[str], most: int = MOST_TEXT) -> str:
    """The text of a file in UTF-8, without a byte order mark; raises as `read_bytes`."""
    return read_bytes(path, most).decode("utf-8-sig")


def read_json(path: str | os.PathLike[str], most: int = MOST_JSON) -> Any:
    """What a file of JSON holds; raises as `read_bytes`, ValueError also for what is no JSON."""
    return parse_json(read_bytes(Path(path), most))


def parse_json(text: str | bytes) -> Any:
    """`json.loads`, which raises ValueError for deep nesting, too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("lists or dicts nested too deeply") from None
