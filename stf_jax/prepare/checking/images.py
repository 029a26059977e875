"""Every image of a layout opened and decoded, in parallel: what is broken, sizes, contents."""

import hashlib
import io
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from stf_jax.cores import usable_cores

FORMATS = ("JPEG", "PNG")
_BLOCK = 64


@dataclass(slots=True)
class ImageCheck:
    """What was found in one image file."""

    name: str
    problem: str = ""  # why it is of no use; "" where it decodes
    kind: str = ""  # format and mode, "JPEG RGB"; "" where it could not be opened
    size: tuple[int, int] = (0, 0)  # height, width; 0 where it could not be opened
    digest: int = 0  # of the bytes, 64 bits; 0 where there are none


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


def _check(path: Path) -> ImageCheck:
    check = ImageCheck(path.name)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        check.problem = "missing"
        return check
    except OSError as error:
        check.problem = f"cannot be read ({error.strerror})"
        return check
    if not data:
        check.problem = "empty file"
        return check
    check.digest = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    try:
        with Image.open(io.BytesIO(data)) as image:
            check.kind, check.size = f"{image.format} {image.mode}", (image.height, image.width)
            if image.format not in FORMATS:
                check.problem = f"is {image.format}, not JPEG or PNG"
                return check
            image.load()
            if not _is_whole(data, image.format):
                check.problem = "does not decode (its end is missing or damaged)"
    except Exception as error:  # Pillow raises whatever the bytes lead it into
        check.problem = f"does not decode ({error!s:.60})" if check.kind else "not an image"
    return check


def check_images(
    folder: Path, names: Sequence[str], threads: int | None = None
) -> list[ImageCheck]:
    """Reads and decodes each image whole; what was found, in the order of `names`.

    Args:
        folder: of the images.
        names: file names, each once.
        threads: at work at a time; None is one for each core. Decoding runs outside
            Python's lock, so that threads suffice.
    """
    blocks = [names[start : start + _BLOCK] for start in range(0, len(names), _BLOCK)]
    checks: list[ImageCheck] = []
    bar = tqdm(total=len(names), desc="images", unit="image", disable=None)
    with bar, ThreadPoolExecutor(threads or usable_cores()) as pool:
        for found in pool.map(lambda block: [_check(folder / name) for name in block], blocks):
            checks += found
            bar.update(len(found))
    return checks
