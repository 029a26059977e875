"""Image names, `<person>_<camera><track>_<offset>.<png|jpg|jpeg>`, to numbers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

MAX_LENGTH = 255  # of a file name, in bytes, on every usual file system


@dataclass(frozen=True, eq=False)
class ParsedNames:
    """Names and the numbers in them; rows that do not parse hold zeros."""

    names: np.ndarray  # [F] 'S' fixed-width bytes
    parsed: Bool[np.ndarray, " f"]
    person_ids: Int64[np.ndarray, " f"]
    cameras: Int64[np.ndarray, " f"]
    tracks: Int64[np.ndarray, " f"]
    offsets: Int64[np.ndarray, " f"]
    widths: Int64[np.ndarray, "f 2"]  # characters of the first and of the second substring


def _to_bytes(value: object) -> bytes:
    """A name as bytes. What cannot be a file name becomes bytes that do not parse."""
    if isinstance(value, bytes):
        name = value
    elif isinstance(value, str):
        name = value.encode("utf-8", "backslashreplace")
    else:
        name = f"<{type(value).__name__}>".encode()
    name = name.replace(b"\0", b"\\x00")  # numpy would strip it from the end
    return name if len(name) <= MAX_LENGTH else name[: MAX_LENGTH - 3] + b"..."


def names_array(values: Sequence[object]) -> np.ndarray:
    """Names (text or bytes, of any kind) as one fixed-width 'S' array [F], utf-8."""
    texts = [value for value in values if type(value) is str]
    if len(texts) == len(values) and max(map(len, texts), default=0) <= MAX_LENGTH:
        joined = "".join(texts)
        if joined.isascii() and "\0" not in joined:
            return np.array(texts, dtype="S")
    return np.array([_to_bytes(value) for value in values], dtype="S")


def parse_names(names: np.ndarray, camera_digits: int = 1) -> ParsedNames:
    """Parses image names [F] ('S' bytes, see `names_array`).

    Args:
        names: fixed-width bytes.
        camera_digits: how many leading digits of the second substring are the camera. The rest
            is the track; where nothing is left the track is 0.

    Numbers have at most 18 digits; the person may be negative. Letters' case in the extension
    does not matter. Anything else does not parse.
    """
    # 18 digits are the most that an int64 surely holds.
    pattern = re.compile(
        rb"(-?[0-9]{1,18})_([0-9]{%d})([0-9]{0,18})_([0-9]{1,18})\.(?:png|jpe?g)" % camera_digits,
        re.IGNORECASE,
    )

    def numbers(name: bytes) -> tuple[int, ...]:
        match = pattern.fullmatch(name)
        if match is None:
            return (0,) * 7
        person, camera, track, offset = match.groups()
        widths = len(person), len(camera) + len(track)
        return (1, int(person), int(camera), int(track or 0), int(offset), *widths)

    rows = map(numbers, names.tolist())
    found = np.fromiter(rows, np.dtype((np.int64, 7)), count=len(names))
    return ParsedNames(names, found[:, 0] != 0, *found[:, 1:5].T.copy(), widths=found[:, 5:])
