"""Image names to numbers, for a million names at a time.

A name is `<person>_<camera><track>_<offset>.<png|jpg|jpeg>`. The parser works on the distinct
*patterns* of a block of names (every digit replaced by 0), of which a data set has a handful:
one regular expression per pattern, and numpy for the digits.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

MAX_LENGTH = 255  # of a file name, in bytes, on every usual file system
_BLOCK = 1 << 17  # rows parsed at once; bounds the memory used beside the result


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


def _pattern(camera_digits: int) -> re.Pattern[bytes]:
    # 18 digits are the most that an int64 surely holds.
    return re.compile(
        rb"(-?)(0{1,18})_(0{%d})(0{0,18})_(0{1,18})\.(?:png|jpg|jpeg)" % camera_digits,
        re.IGNORECASE,
    )


def _number(characters: np.ndarray, columns: tuple[int, int]) -> np.ndarray:
    digits = characters[:, slice(*columns)].astype(np.int64) - ord("0")
    return digits @ 10 ** np.arange(digits.shape[1])[::-1]


def parse_names(names: np.ndarray, camera_digits: int = 1) -> ParsedNames:
    """Parses image names [F] ('S' bytes, see `names_array`).

    Args:
        names: fixed-width bytes.
        camera_digits: how many leading digits of the second substring are the camera. The rest
            is the track; where nothing is left the track is 0.

    Numbers have at most 18 digits; the person may be negative. Letters' case in the extension
    does not matter. Anything else does not parse.
    """
    pattern = _pattern(camera_digits)
    count, width = len(names), names.dtype.itemsize
    parsed = np.zeros(count, bool)
    numbers = np.zeros((4, count), np.int64)
    widths = np.zeros((count, 2), np.int64)
    for start in range(0, count, _BLOCK):
        block = np.ascontiguousarray(names[start : start + _BLOCK])
        characters = block.view(np.uint8).reshape(len(block), width)
        is_digit = (characters >= ord("0")) & (characters <= ord("9"))
        shapes = np.where(is_digit, np.uint8(ord("0")), characters).view(block.dtype).ravel()
        distinct, which = np.unique(shapes, return_inverse=True)
        order = np.argsort(which, kind="stable")
        bounds = np.searchsorted(which[order], np.arange(len(distinct) + 1))
        for index, shape in enumerate(distinct.tolist()):
            match = pattern.fullmatch(shape)
            if match is None:
                continue
            rows = order[bounds[index] : bounds[index + 1]]
            digits = characters[rows]
            sign = -1 if match[1] else 1
            into = rows + start
            parsed[into] = True
            numbers[0, into] = sign * _number(digits, match.span(2))
            for field in (1, 2, 3):
                numbers[field, into] = _number(digits, match.span(field + 2))
            widths[into] = match.end(2), match.end(4) - match.start(3)
    return ParsedNames(names, parsed, *numbers, widths=widths)
