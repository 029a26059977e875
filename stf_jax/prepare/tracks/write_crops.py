"""Writing crops so that an interrupted run resumes, and nothing half-written looks complete."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from stf_jax.errors import UserError
from stf_jax.prepare.output import whole_file
from stf_jax.prepare.tracks.summary import Camera
from stf_jax.prepare.tracks.track_files import TrackFile
from stf_jax.prepare.tracks.video import Video, read_frames


def too_short(video: Video, tracks: TrackFile, num_frames: int) -> UserError:
    """The error for a video of fewer frames than its tracks need."""
    return UserError(
        f"{video.path}: has {num_frames} frames, but {tracks.path} needs "
        f"{tracks.frames.max() + 1} (its last frame is "
        f"{tracks.frames.max() + tracks.first_frame}, counted from {tracks.first_frame}); "
        "give the video the tracks were made from, and check --first-frame"
    )


def _save(pixels: np.ndarray, path: Path) -> None:
    with whole_file(path, sync=False) as temporary:
        if path.suffix == ".png":
            Image.fromarray(pixels).save(temporary, format="PNG")
        else:
            Image.fromarray(pixels).save(temporary, format="JPEG", quality=95)


def write_images(
    camera: Camera, names: Sequence[str], present: Collection[str], folder: Path
) -> None:
    """Writes the crops of one camera in one pass over its video, holding one frame at a time.

    Args:
        camera: with its cut; crop k becomes image `names[k]`.
        names: file names, one a crop.
        present: names of images that are there already; skipped.
        folder: of the images.

    Raises:
        UserError: a video that ends before its tracks do, or does not decode.
    """
    cut = camera.cut
    rows = np.array([row for row, name in enumerate(names) if name not in present], np.int64)
    if not len(rows):
        return
    rows = rows[np.argsort(cut.frames[rows], kind="stable")]
    # To the last frame of the tracks, also where it gives no picture, to know that it is there.
    last = int(camera.tracks.frames.max())
    place, num_frames = 0, 0
    frames = read_frames(camera.video, np.unique(np.append(cut.frames[rows], last)))
    bar = tqdm(frames, total=last + 1, desc=f"camera {camera.number}", unit="frame", disable=None)
    for number, pixels in bar:
        num_frames = number + 1
        while place < len(rows) and cut.frames[rows[place]] == number:
            assert pixels is not None
            left, top, right, bottom = cut.crops[rows[place]]
            crop = np.ascontiguousarray(pixels[top:bottom, left:right])
            _save(crop, folder / names[int(rows[place])])
            place += 1
    if num_frames <= last:
        raise too_short(camera.video, camera.tracks, num_frames)
