"""Frames of a video file, or of a folder of pictures, one at a time and in order."""

import itertools
import logging
import os
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import UInt8

from stf_jax.data.pictures import MAX_PIXELS, PictureError, read_picture
from stf_jax.errors import UserError
from stf_jax.files import is_leftover, leftovers_note

_LOG = logging.getLogger(__name__)
PICTURE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")


@dataclass(frozen=True)
class Video:
    """A video that opened. `pictures` are a folder's files in order; empty for a video file."""

    path: Path
    width: int  # as shown, that is after the rotation the file asks for
    height: int
    pictures: tuple[Path, ...] = ()
    first_number: int = 0  # the number in the name of a folder's first file
    rate: float | None = None  # frames a second, on average; None: not known, as of a folder


def _numbered_pictures(folder: Path) -> tuple[tuple[Path, ...], int]:
    """Files by the last number in their names, which must count without holes."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_EXTENSIONS]
    leftovers = [path.name for path in found if is_leftover(path.name)]
    if leftovers:
        _LOG.warning(leftovers_note(folder, leftovers))
        found = [path for path in found if not is_leftover(path.name)]
    if not found:
        raise UserError(f"{folder}: no pictures in it; expected {', '.join(PICTURE_EXTENSIONS)}")
    by_number: dict[int, Path] = {}
    for path in sorted(found):
        digits = re.findall(r"\d+", path.stem)
        if not digits:
            raise UserError(f"{path}: no frame number in the name; expected names such as 000001")
        other = by_number.setdefault(int(digits[-1]), path)
        if other != path:
            raise UserError(f"{path}: the same frame number as {other.name}; keep one of them")
    numbers = sorted(by_number)
    for before, after in itertools.pairwise(numbers):
        if after != before + 1:
            raise UserError(
                f"{folder}: frame {before + 1} is missing ({by_number[before].name} is followed "
                f"by {by_number[after].name}); boxes would land on wrong frames"
            )
    return tuple(by_number[number] for number in numbers), numbers[0]


def _read_picture(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        return np.asarray(read_picture(path, upright=True))
    except PictureError as error:
        raise UserError(f"{path}: not a readable picture ({error})") from None


def _upright(frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
    # Trackers see frames as players show them: phones store theirs turned.
    turns = round(frame.rotation / 90) % 4
    return np.rot90(frame.to_ndarray(format="rgb24"), turns)


def _decode(path: Path) -> Generator[av.VideoFrame, None, None]:
    number = 0
    try:
        # A list of parts, which FFmpeg also takes for a video, may name files, never an address.
        with av.open(os.fspath(path), options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise UserError(f"{path}: no video stream in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            context = stream.codec_context
            if context is None:
                raise UserError(f"{path}: no video that FFmpeg can decode")
            width, height = context.width, context.height
            if width * height > MAX_PIXELS:
                raise UserError(
                    f"{path}: frames of {width}x{height} pixels; expected "
                    f"{MAX_PIXELS // 10**6} million at most"
                )
            context.options = {"max_pixels": str(MAX_PIXELS)}  # of later frames
            for frame in container.decode(stream):
                yield frame
                number += 1
    except FFmpegError as error:
        raise UserError(f"{path}: cannot be decoded after {number} frames ({error})") from None


def open_video(path: str | os.PathLike[str]) -> Video:
    """Opens a video file (anything FFmpeg reads) or a folder of pictures and reads its size.

    A folder's files are ordered by the last number in their names.

    Raises:
        UserError: missing, unreadable, without frames; a folder whose numbers have holes.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such video or folder of frames")
    if path.is_dir():
        pictures, first_number = _numbered_pictures(path)
        height, width = _read_picture(pictures[0]).shape[:2]
        return Video(path, width, height, pictures, first_number)
    frames = _decode(path)
    first = next(frames, None)
    if first is None:
        raise UserError(f"{path}: no frame could be decoded")
    height, width = _upright(first).shape[:2]
    frames.close()
    return Video(path, width, height, rate=_rate(path))


def _rate(path: Path) -> float | None:
    with av.open(os.fspath(path), options={"protocol_whitelist": "file"}) as container:
        rate = container.streams.video[0].average_rate
    return float(rate) if rate else None


def read_frames(
    video: Video, wanted: np.ndarray
) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"] | None]]:
    """Yields every frame's number up to the last wanted one, with its pixels where wanted.

    One pass, one frame in memory. Ends early where the video does.

    Args:
        video: from `open_video`.
        wanted: frame numbers from 0, ascending, int [w].

    Yields:
        (number, RGB uint8 [height, width, 3], or None for frames not wanted).

    Raises:
        UserError: an unreadable frame, or one of another size than the first.
    """
    if not len(wanted):
        return
    needed, last = iter([*wanted.tolist(), -1]), int(wanted[-1])
    following = next(needed)
    sources = video.pictures or _decode(video.path)
    for number, source in enumerate(sources):
        pixels = None
        if number == following:
            following = next(needed)
            pixels = _read_picture(source) if isinstance(source, Path) else _upright(source)
            if pixels.shape[:2] != (video.height, video.width):
                raise UserError(
                    f"{source if isinstance(source, Path) else video.path}: frame {number} (from "
                    f"0) is {pixels.shape[1]}x{pixels.shape[0]}, the first frame "
                    f"{video.width}x{video.height}; expected one size throughout"
                )
        yield number, pixels
        if number == last:
            return
