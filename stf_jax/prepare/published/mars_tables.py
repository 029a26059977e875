"""The tables of MARS's authors: `info/*.mat` and the lists of names that their rows point into."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from stf_jax.data.layout.checks import examples
from stf_jax.errors import UserError
from stf_jax.prepare.published.mat_files import read_mat
from stf_jax.reading.limits import MOST_TEXT, read_bytes

NAME = re.compile(r"(00-1|[0-9]{4})C([0-9])T([0-9]{1,9})F([0-9]{1,9})\.(?:jpg|jpeg|png)", re.I)
"""Person, camera, track and frame: `0001C1T0001F001.jpg`; junk is person `00-1`."""

OFFICIAL_SHA256 = {
    "tracks_train_info.mat": "bae1ca16a6afbad1",
    "tracks_test_info.mat": "35a5464d1219cc42",
    "query_IDX.mat": "2b580c94cf7934db",
}
"""The beginnings of the digests of the authors' files."""

_PLACES = ("info", "MARS-evaluation-master/info", "MARS-evaluation/info", ".")


@dataclass(frozen=True)
class Table:
    """The tracklets of one subset and the list of image names that they are ranges of."""

    path: Path
    names_path: Path
    names: list[str]
    rows: Int[np.ndarray, "n 4"]  # first line, line after the last (from 0), person, camera


def find_info(source: Path, info: Path | None = None) -> Path:
    """The folder of the tables, `info` itself if it is given.

    Raises:
        UserError: none of the places has them.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; give the one that holds bbox_train and info")
    places = [info] if info is not None else [source / place for place in _PLACES]
    for place in places:
        if (place / "tracks_test_info.mat").is_file():
            return place
    raise UserError(
        f"{source}: no tracks_test_info.mat in {', '.join(map(str, places))}; it comes with the "
        "authors' evaluation code, in its folder info: name that folder with --info"
    )


def unofficial(info: Path) -> list[str]:
    """A line about each table that is not, byte for byte, the authors'."""
    notes = []
    for name, official in OFFICIAL_SHA256.items():
        digest = hashlib.sha256((info / name).read_bytes()).hexdigest()[: len(official)]
        if digest != official:
            notes.append(
                f"{info / name}: SHA-256 begins {digest}, that of the authors' file {official}; "
                "scores are not comparable with published ones"
            )
    return notes


def read_names(path: Path) -> list[str]:
    """The lines of a list of names; empty ones at the end do not count.

    Raises:
        UserError: no file, an empty line, a name twice.
    """
    try:
        text = read_bytes(path, MOST_TEXT).decode("utf-8", "surrogateescape")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", error)
        raise UserError(
            f"{path}: cannot be read ({reason}); expected an image name a line"
        ) from None
    names = [line.strip() for line in text.rstrip().splitlines()]
    if not names or not all(names):
        raise UserError(f"{path}: is empty or has an empty line; expected an image name a line")
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = [name for name in names if name in seen or seen.add(name)]
        raise UserError(
            f"{path}: {len(twice):,} of {len(names):,} names come a second time "
            f"({examples(twice)}); expected each image once; get the file again"
        )
    return names


def read_table(info: Path, subset: str) -> Table:
    """Reads `tracks_<subset>_info.mat` and `<subset>_name.txt`.

    Raises:
        UserError: a table that is not one of tracklets, or does not fit the list of names.
    """
    path, names_path = info / f"tracks_{subset}_info.mat", info / f"{subset}_name.txt"
    values = read_mat(path)
    names = read_names(names_path)
    if values.shape[1] != 4 or not len(values):
        raise UserError(
            f"{path}: is a table of {values.shape[0]} x {values.shape[1]}; expected four columns: "
            "first image, last image, person, camera"
        )
    first, last, _, camera = values.T
    bad = np.flatnonzero((first < 1) | (last < first) | (last > len(names)))
    if len(bad):
        raise UserError(
            f"{path}: {len(bad):,} of {len(values):,} rows are not a range of the {len(names):,} "
            f"lines of {names_path} (row {bad[0] + 1}: {first[bad[0]]} to {last[bad[0]]}); "
            "get both files from one copy of the data set"
        )
    order = np.argsort(first, kind="stable")
    overlapping = np.flatnonzero(first[order][1:] <= last[order][:-1])
    if len(overlapping):
        rows = np.sort(order[[overlapping[0], overlapping[0] + 1]]) + 1
        raise UserError(
            f"{path}: {len(overlapping):,} rows share images with another "
            f"(rows {rows[0]} and {rows[1]}); expected each image in one tracklet"
        )
    bad = np.flatnonzero((camera < 0) | (camera > 9))
    if len(bad):
        raise UserError(
            f"{path}: row {bad[0] + 1} has camera {camera[bad[0]]}; expected one digit (MARS: 1-6)"
        )
    rows = values.copy()
    rows[:, 0] -= 1  # 1-based and inclusive, so the last line is already the one after
    return Table(path, names_path, names, rows)
