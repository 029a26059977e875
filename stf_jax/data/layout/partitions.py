"""The project's layout, read into tables of tracklets and checked before anything uses it.

A layout is a folder with `partitions.pkl` and `images/`; docs/data.md describes its keys and names.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stf_jax.data.layout.checks import GALLERY, MULTI_QUERY, QUERY, Findings, examples, shown
from stf_jax.data.layout.safe_pickle import read_pickle
from stf_jax.data.layout.tracklets import TRAINING_SUBSETS, TrackletTable, build_table
from stf_jax.errors import UserError

__all__ = [
    "GALLERY",
    "MULTI_QUERY",
    "QUERY",
    "SUBSETS",
    "Layout",
    "TrackletTable",
    "load_layout",
    "read_partitions",
    "tables",
]

SUBSETS = ("train", "val", "trainval", "test")


@dataclass(frozen=True, eq=False)
class Layout:
    """The subsets of one partitions file; those that it lacks are None."""

    root: Path
    train: TrackletTable | None
    val: TrackletTable | None
    trainval: TrackletTable | None
    test: TrackletTable | None
    findings: tuple[str, ...]  # notes that are not errors, one line each, with counts


def read_partitions(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the dict of a partitions file, unchecked; keys are text, arrays are lists.

    Raises:
        UserError: no file, not a complete pickle, not a dict, or a pickle that holds more than
            plain data (see `stf_jax.data.layout.safe_pickle`).
    """
    path = Path(path)
    check_is_there(path)
    values = read_pickle(path)
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: holds {shown(values)}; expected a dict with keys such as "
            "'trainval_im_names'; is it another program's file?"
        )
    return {
        key.decode("latin-1") if isinstance(key, bytes) else key: value
        for key, value in values.items()
        if isinstance(key, str | bytes)
    }


def check_is_there(path: Path) -> None:
    """Raise UserError where there is no such partitions file, with those that there are."""
    if not os.path.isfile(path):
        others = sorted(other.name for other in path.parent.glob("*.pkl"))
        hint = (
            f"there are {', '.join(others[:12])}: name one of these "
            "(--config.data.partitions=NAME; for prepare verify --partitions NAME)"
            if others
            else f"make a layout with `python -m stf_jax.prepare SOURCE --output {path.parent} ...`"
        )
        raise UserError(f"{path}: no such file; expected a layout's partitions file; {hint}")


def load_layout(
    root: str | os.PathLike[str],
    partitions: str | os.PathLike[str] = "partitions.pkl",
    *,
    check_files: bool = True,
    subsets: Sequence[str] | None = None,
) -> Layout:
    """Reads and checks the layout in `root`.

    Args:
        root: folder with the partitions file and `images/`.
        partitions: name of the partitions file within `root` (sets with several splits have
            `partitions_00.pkl` ...).
        check_files: look that every image exists (one listing of `images/`; contents are not
            read).
        subsets: those of "train", "val", "trainval", "test" that are needed; lacking one of them
            is an error and others are not looked at. None reads whatever is there.

    Raises:
        UserError: anything that must be fixed, one line per finding.
    """
    root = Path(root)
    path = root / partitions
    values = read_partitions(path)
    findings = Findings(path)
    image_dir = root / "images"
    built = tables(values, image_dir, findings, subsets)
    if check_files:
        _check_files(built, image_dir, findings)
    if findings.errors:
        raise UserError("\n".join(findings.errors))
    found = {subset: built.get(subset) for subset in SUBSETS}
    return Layout(root, **found, findings=tuple(findings.notes))


def tables(
    values: Mapping[str, Any],
    image_dir: Path,
    findings: Findings,
    subsets: Sequence[str] | None = None,
) -> dict[str, TrackletTable]:
    """The tables of the subsets in a partitions dict; whatever is unusual goes to `findings`.

    Where `findings.errors` is not empty afterwards, the tables hold only what could be read.
    """
    for subset in subsets or ():
        if subset not in SUBSETS:
            raise ValueError(f"no subset is called {subset!r}; there are {', '.join(SUBSETS)}")
    camera_digits = values.get("camera_digits", 1)
    if not isinstance(camera_digits, int) or not 1 <= camera_digits <= 9:
        findings.error(f"camera_digits is {shown(camera_digits)}; expected 1 to 9 (absent: 1)")
        camera_digits = 1
    needed = [subset for subset in SUBSETS if subset in (SUBSETS if subsets is None else subsets)]
    keys = {subset: f"{subset}_im_names" for subset in needed}
    there = [subset for subset in needed if keys[subset] in values]
    lacking = [keys[subset] for subset in needed if subset not in there]
    if lacking and (subsets is not None or not there):
        found = ", ".join(map(shown, sorted(values)[:20])) or "none"
        findings.error(
            f"no {' or '.join(lacking)}; keys found: {found}; prepare the layout with these "
            "subsets or ask for others"
        )
    built: dict[str, TrackletTable] = {}
    empty = []
    for subset in there:
        names = values[keys[subset]]
        if not isinstance(names, list | tuple):
            findings.error(
                f"{keys[subset]} is {shown(names)}; expected a list or array of image names"
            )
        elif len(names) == 0:
            empty.append(subset)
        else:
            table = build_table(subset, names, values, camera_digits, image_dir, findings)
            if table.num_frames:
                built[subset] = table
    report = findings.note if subsets is None and len(empty) < len(there) else findings.error
    for subset in empty:
        report(f"{keys[subset]} is empty; expected image names")
    _check_disjoint(built, findings)
    return built


def _check_disjoint(built: Mapping[str, TrackletTable], findings: Findings) -> None:
    for training in TRAINING_SUBSETS:
        for ranked in ("val", "test"):
            if (training, ranked) == ("trainval", "val"):
                continue  # trainval is train and val together
            if training in built and ranked in built:
                shared = np.intersect1d(built[training].person_ids, built[ranked].person_ids)
                if len(shared):
                    findings.note(
                        f"{len(shared)} identities are in {training} and in {ranked} "
                        f"({examples(shared.tolist())}); scores on {ranked} are then too good"
                    )


def _check_files(built: Mapping[str, TrackletTable], image_dir: Path, findings: Findings) -> None:
    try:
        listing = set(os.listdir(os.fsencode(image_dir)))
    except OSError as error:
        findings.error(
            f"{image_dir}: cannot be listed ({error.strerror}); expected the folder of the images"
        )
        return
    for subset, table in built.items():
        missing = [name for name in table.names.tolist() if name not in listing]
        if missing:
            findings.error(
                f"{subset}_im_names: {len(missing)} of {table.num_frames} images are not in "
                f"{image_dir} ({examples(missing)}); copy them there or prepare the layout again"
            )
