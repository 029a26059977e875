"""Every image of a layout opened and decoded, in parallel: what is broken, sizes, contents."""

import hashlib
import io
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt64
from PIL import Image
from tqdm import tqdm

from stf_jax.cores import usable_cores

FORMATS = ("JPEG", "PNG")
_BLOCK = 64


@dataclass(frozen=True)
class ImageChecks:
    """What was found in each of `names`, in their order."""

    names: tuple[str, ...]
    problems: tuple[str, ...]  # why it is of no use; "" where it decodes
    kinds: tuple[str, ...]  # format and mode, "JPEG RGB"; "" where it could not be opened
    sizes: Int32[np.ndarray, "n 2"]  # height, width; 0 where it could not be opened
    digests: UInt64[np.ndarray, " n"]  # of the bytes; 0 where there are none


def _is_whole(data: bytes, kind: str) -> bool:
    """Checks what Pillow forgives and the decoder of training does not.

    A JPEG's end marker: files that a crash left at full length, their end all zeros, lack it. (In
    its pixels 0xff is followed by 0 or a restart marker, so no marker is there by chance.) A PNG's
    chunks, with their check sums, up to the last one.
    """
    if kind == "JPEG":
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    start = 8
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        stop = start + 8 + length
        if zlib.crc32(data[start + 4 : stop]) != int.from_bytes(data[stop : stop + 4], "big"):
            return False
        if data[start + 4 : start + 8] == b"IEND":
            return True
        start = stop + 4
    return False


def _check(path: str) -> tuple[str, str, int, int, int]:
    """Problem, kind, height, width and digest of one file."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return "missing", "", 0, 0, 0
    except OSError as error:
        return f"cannot be read ({error.strerror})", "", 0, 0, 0
    if not data:
        return "empty file", "", 0, 0, 0
    digest = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    kind, height, width = "", 0, 0
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind, (width, height) = f"{image.format} {image.mode}", image.size
            if image.format not in FORMATS:
                return f"is {image.format}, not JPEG or PNG", kind, height, width, digest
            image.load()
            if not _is_whole(data, image.format):
                return (
                    "does not decode (its end is missing or damaged)",
                    kind,
                    height,
                    width,
                    digest,
                )
    except Exception as error:  # Pillow raises whatever the bytes lead it into
        reason = "not an image" if not kind else f"does not decode ({error!s:.60})"
        return reason, kind, height, width, digest
    return "", kind, height, width, digest


def _check_block(folder: str, names: Sequence[str]) -> list[tuple[str, str, int, int, int]]:
    return [_check(os.path.join(folder, name)) for name in names]


def check_images(folder: Path, names: Sequence[str], threads: int | None = None) -> ImageChecks:
    """Reads and decodes each image whole.

    Args:
        folder: of the images.
        names: file names, each once.
        threads: at work at a time; None is one for each core. Decoding runs outside
            Python's lock, so that threads suffice.
    """
    blocks = [names[start : start + _BLOCK] for start in range(0, len(names), _BLOCK)]
    rows: list[tuple[str, str, int, int, int]] = []
    bar = tqdm(total=len(names), desc="images", unit="image", disable=None)
    workers = threads or usable_cores()
    with bar, ThreadPoolExecutor(workers) as pool:
        for found in pool.map(lambda block: _check_block(os.fspath(folder), block), blocks):
            rows.extend(found)
            bar.update(len(found))
    return ImageChecks(
        names=tuple(names),
        problems=tuple(row[0] for row in rows),
        kinds=tuple(row[1] for row in rows),
        sizes=np.array([row[2:4] for row in rows], np.int32).reshape(-1, 2),
        digests=np.array([row[4] for row in rows], np.uint64),
    )
