"""The tracklets of a data set as its owner made them, on their way into the layout."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stf_jax.data.layout.checks import examples
from stf_jax.errors import UserError
from stf_jax.files import is_leftover
from stf_jax.prepare.layout import EXTENSIONS, image_name

LAST_NUMBER = re.compile(r"([0-9]{1,18})\.[^.]*$")
"""The last number in the name of a file, before its extension."""


@dataclass(frozen=True)
class SourceTracklet:
    """One tracklet of a source: its numbers in the layout and its images, in time order."""

    person_id: int
    camera: int
    track: int
    files: tuple[str, ...]  # paths relative to the source's folder
    offsets: tuple[int, ...]  # of each image in its track, ascending


def image_names(tracklet: SourceTracklet, camera_digits: int = 1) -> list[str]:
    """The layout's names of a tracklet's images; the extension is the source's."""
    return [
        image_name(
            tracklet.person_id,
            tracklet.camera,
            tracklet.track,
            offset,
            camera_digits=camera_digits,
            ext=os.path.splitext(file)[1],
        )
        for file, offset in zip(tracklet.files, tracklet.offsets, strict=True)
    ]


def is_image(name: str) -> bool:
    """Whether a file's name ends as the layout's images do, and it is no leftover (`._a.jpg`)."""
    return (
        not is_leftover(name) and os.path.splitext(name)[1].lower().removeprefix(".") in EXTENSIONS
    )


def listing_digest(files: Sequence[str], names: Sequence[str]) -> str:
    """SHA-256 of which file becomes which image; the same for two runs on the same source."""
    digest = hashlib.sha256()
    for file, name in zip(files, names, strict=True):
        digest.update(f"{file}\t{name}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def paths_below(folder: Path) -> list[str]:
    """Paths relative to `folder` of the files in it and of what is in its folders.

    Raises:
        UserError: no such folder, or one that cannot be read.
    """
    found: list[str] = []
    try:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.is_dir():
                found += [f"{entry.name}/{inner.name}" for inner in os.scandir(entry.path)]
            else:
                found.append(entry.name)
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}); expected a folder of images"
        ) from None
    return found


def files_below(folder: Path) -> dict[str, str]:
    """File name -> path relative to `folder`, of the files in it and in its folders.

    Where two folders have a file of the same name, the one whose folder begins the name wins
    (`0001/0001C1T0001F001.jpg`), then the first by name.

    Raises:
        UserError: no such folder, or one that cannot be read.
    """
    found: dict[str, str] = {}
    for path in paths_below(folder):
        inside, _, name = path.rpartition("/")
        if name not in found or (inside and name.startswith(inside)):
            found[name] = path
    return found


def find_all(
    wanted: Sequence[str], found: Mapping[str, str], folder: Path, listed_by: Path
) -> list[str]:
    """The path of each wanted file name, by a listing such as `files_below` gives.

    Raises:
        UserError: one line with the count of those that are not there.
    """
    paths = [found.get(name) for name in wanted]
    missing = [name for name, path in zip(wanted, paths, strict=True) if path is None]
    if missing:
        raise UserError(
            f"{folder}: {len(missing):,} of the {len(wanted):,} images that {listed_by} lists are "
            f"not there ({examples(missing)}); unpack the data set's archive again"
        )
    return [path for path in paths if path is not None]
