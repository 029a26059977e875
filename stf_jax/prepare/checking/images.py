"""Every image of a layout opened and decoded, in parallel: what is broken, sizes, contents."""

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from stf_jax.cores import usable_cores
from stf_jax.data.pictures import orientation
from stf_jax.data.pipeline import undecodable
from stf_jax.errors import raise_system_fault

_BLOCK = 64


@dataclass(slots=True)
class ImageCheck:
    """What was found in one image file."""

    name: str
    problem: str = ""  # why it is of no use; "" where it decodes
    kind: str = ""  # format and mode, "JPEG RGB"; "" where it could not be opened
    size: tuple[int, int] = (0, 0)  # height, width; 0 where it could not be opened
    digest: int = 0  # of the bytes, 64 bits; 0 where there are none
    orientation: int = 1  # of its EXIF data, 1 to 8; 1 is upright


def _check(path: Path) -> ImageCheck:
    check = ImageCheck(path.name)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        check.problem = "missing"
        return check
    except OSError as error:
        raise_system_fault(error, path)  # no image is bad because of it
        check.problem = f"cannot be read ({error.strerror})"
        return check
    if not data:
        check.problem = "empty file"
        return check
    check.digest = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    try:
        with Image.open(io.BytesIO(data)) as image:
            check.kind, check.size = f"{image.format} {image.mode}", (image.height, image.width)
            check.orientation = orientation(image)
    except Exception:  # Pillow raises whatever the bytes lead it into; training has its own decoder
        check.kind = ""
    check.problem = undecodable(data)
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
