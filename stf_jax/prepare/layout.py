"""Writing the project's layout: the name of an image, and the partitions file beside the images."""

import os
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stf_jax.data.layout.checks import Findings
from stf_jax.data.layout.partitions import tables
from stf_jax.errors import UserError
from stf_jax.prepare.output import whole_file
from stf_jax.prepare.validation import split_validation

EXTENSIONS = ("png", "jpg", "jpeg")


def image_name(
    person_id: int,
    camera: int,
    track: int,
    offset: int,
    *,
    camera_digits: int = 1,
    ext: str = "png",
) -> str:
    """Returns the file name of one image: `000012_10003_000045.png`.

    Person and offset are padded to six digits and the track to four, so that names of usual
    sizes sort in the order of the tables; larger numbers grow. Readers accept any width.

    Args:
        person_id: identity; may be negative (MARS junk is -1, written `-00001`).
        camera: 0 .. 10**camera_digits - 1.
        track: number of the track within the camera, from 0.
        offset: place of the image in its track, in time order, from 0.
        camera_digits: leading digits of the second substring that are the camera. The plain
            layout has one; more are this project's extension and are recorded in the
            partitions file (`write_partitions(..., camera_digits=2)`).
        ext: png, jpg or jpeg in any case, with or without the dot.

    Raises:
        UserError: a number that the name cannot hold, or an extension that readers refuse.
    """
    suffix = ext.removeprefix(".")
    what = f"person {person_id}, camera {camera}, track {track}, offset {offset}"
    if camera_digits < 1:
        raise UserError(f"camera_digits is {camera_digits}; expected 1 or more")
    if not 0 <= camera < 10**camera_digits:
        raise UserError(
            f"{what}: {camera_digits} digit(s) cannot hold camera {camera}; number the cameras "
            f"0 to {10**camera_digits - 1} or use more camera digits"
        )
    if track < 0 or offset < 0:
        raise UserError(f"{what}: track and offset must not be negative; number them from 0")
    if suffix.lower() not in EXTENSIONS:
        raise UserError(f"{what}: extension {ext!r}; expected one of {', '.join(EXTENSIONS)}")
    return f"{person_id:06d}_{camera:0{camera_digits}d}{track:04d}_{offset:06d}.{suffix}"


def _identity(name: str) -> int:
    try:
        return int(name.split("_", 1)[0])
    except ValueError:
        raise UserError(f"{name!r}: no person id before the first '_'; see image_name") from None


def _ids2labels(names: Iterable[str]) -> dict[str, int]:
    """Sorted identities to labels 0..K-1; keys are padded as in the names."""
    return {
        f"{person:06d}": label for label, person in enumerate(sorted(set(map(_identity, names))))
    }


def write_partitions(
    root: str | os.PathLike[str],
    *,
    trainval: Sequence[str],
    test: Sequence[str],
    test_marks: Sequence[int] | Sequence[np.integer],
    train: Sequence[str] | None = None,
    val: Sequence[str] | None = None,
    val_marks: Sequence[int] | Sequence[np.integer] | None = None,
    camera_digits: int = 1,
    filename: str = "partitions.pkl",
    val_share: float = 0,
) -> Path:
    """Writes the partitions file of a layout and returns its path.

    The file is written atomically (to another name, then renamed), so writing it last
    makes it the sign that a layout is complete. The same arguments give the same bytes.

    Args:
        root: the layout's folder; created if need be. The images are in `<root>/images`.
        trainval, train: names of training images; identities become labels 0..K-1 in sorted order.
        test, val: names of images to rank.
        test_marks, val_marks: one per image: 0 query, 1 gallery, 2 multi-query.
        camera_digits: as given to `image_name`.
        filename: another name, for sets with several splits (`partitions_00.pkl`).
        val_share: share of the identities of `trainval` to make `train` and `val` of, where these
            are not given (`validation.split_validation`); 0: none.

    A subset that is empty or None is left out of the file.

    Raises:
        UserError: nothing to write, a file that `load_layout` would refuse, or a full disk;
            nothing is written then. Whether the images exist is not looked at.
    """
    path = Path(root) / filename
    if val_share and (train is not None or val is not None):
        raise UserError(f"--val-share {val_share}: the data set has a val of its own; leave it out")
    if val_share:
        split = split_validation(trainval, val_share, camera_digits)
        train, val, val_marks = split.train, split.val, split.marks
    values: dict[str, object] = {}
    for subset, names in (("trainval", trainval), ("train", train)):
        if names is not None and len(names):
            values[f"{subset}_im_names"] = [str(name) for name in names]
            values[f"{subset}_ids2labels"] = _ids2labels(names)
    for subset, names, marks in (("val", val, val_marks), ("test", test, test_marks)):
        num_names, num_marks = len(names or ()), 0 if marks is None else len(marks)
        if num_names != num_marks:
            raise UserError(
                f"{path}: {num_marks} {subset}_marks for {num_names} {subset} images; "
                "give each image one mark"
            )
        if names is not None and marks is not None and num_names:
            values[f"{subset}_im_names"] = [str(name) for name in names]
            values[f"{subset}_marks"] = [int(mark) for mark in marks]
    if not values:
        raise UserError(f"{path}: no images at all; nothing was written")
    if camera_digits != 1:
        values["camera_digits"] = int(camera_digits)
    findings = Findings(path)
    tables(values, path.parent / "images", findings)
    if findings.errors:
        raise UserError("\n".join(findings.errors))

    path.parent.mkdir(parents=True, exist_ok=True)
    contents = pickle.dumps(values, protocol=4)
    if not path.is_file() or path.read_bytes() != contents:  # what is there already is left alone
        with whole_file(path) as temporary:
            temporary.write_bytes(contents)
    return path
