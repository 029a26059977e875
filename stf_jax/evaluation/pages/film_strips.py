"""Film strips: a few frames of a tracklet side by side in one small JPEG."""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps

from stf_jax.cores import usable_cores
from stf_jax.data.pictures import PictureError, read_picture
from stf_jax.evaluation.features.feature_files import FeatureSet
from stf_jax.files import atomic_write

FRAME_WIDTH, FRAME_HEIGHT = 48, 96  # pixels
QUALITY = 72  # JPEG; a strip of five frames is about 6 kB
GREY = (127, 127, 127)

ReadImages = Callable[[Sequence[bytes]], Sequence[bytes]]
"""Names of image files -> their bytes, where they are in no folder; called from several threads."""


def strip_frames(features: FeatureSet, row: int, count: int) -> Int64[np.ndarray, " k"]:
    """At most `count` frames of a tracklet, evenly spread, as places in it (0 is its first)."""
    length = int(features.offsets[row + 1] - features.offsets[row])
    if length <= count:
        return np.arange(length)
    return ((np.arange(count) + 0.5) * length / count).astype(np.int64)


def read_frame(file: Path | io.BytesIO, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """A picture, upright, fitted into `width` x `height`, its proportions kept, on grey.

    One that cannot be read is a crossed box, so that a page is made even without it.
    """
    try:
        picture = read_picture(file, upright=True, enough=(2 * width, 2 * height))
        return np.asarray(ImageOps.pad(picture, (width, height), color=GREY))
    except PictureError:
        lost = np.full((height, width, 3), GREY, np.uint8)
        rows = np.arange(height)
        columns = rows * (width - 1) // max(1, height - 1)
        lost[rows, columns] = lost[rows, width - 1 - columns] = 0
        return lost


def film_strip(
    features: FeatureSet,
    row: int,
    frames: Sequence[int] | np.ndarray,
    *,
    width: int = FRAME_WIDTH,
    height: int = FRAME_HEIGHT,
    read_images: ReadImages | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """The chosen `frames` of a tracklet side by side, RGB."""
    start = int(features.offsets[row])
    folder = Path(features.image_dir)
    names = [bytes(features.names[start + int(frame)]) for frame in frames]
    files = (
        [folder / os.fsdecode(name) for name in names]
        if read_images is None
        else [io.BytesIO(image) for image in read_images(names)]
    )
    return np.concatenate([read_frame(file, width, height) for file in files], axis=1)


def write_strips(
    features: FeatureSet,
    rows: np.ndarray,
    folder: Path,
    prefix: str,
    count: int,
    read_images: ReadImages | None = None,
) -> dict[int, str]:
    """Write the strips of tracklets `rows` into `folder`; returns row -> file name."""
    names = {int(row): f"{prefix}{int(row):06d}.jpg" for row in rows}

    def write(row: int) -> None:
        path = folder / names[row]
        frames = strip_frames(features, row, count)
        strip = film_strip(features, row, frames, read_images=read_images)
        with atomic_write(path, sync=False) as temporary:
            Image.fromarray(strip).save(temporary, format="JPEG", quality=QUALITY, optimize=True)

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(write, names))
    return names
