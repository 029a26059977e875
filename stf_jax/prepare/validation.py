"""A part of the training identities set aside to choose a model with: `--val-share`."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stf_jax.data.layout.checks import GALLERY, QUERY, Findings
from stf_jax.data.layout.tracklets import build_table
from stf_jax.errors import UserError


@dataclass(frozen=True)
class Validation:
    """Image names of both parts, and the mark of each image of `val`: QUERY or GALLERY."""

    train: list[str]
    val: list[str]
    marks: list[int]


def add_val_share(add: Callable[..., object]) -> None:
    """Adds --val-share with `add`, the `add_argument` of a parser or of a group of its options."""
    add(
        "--val-share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="also write the subsets val, this share of the training identities, and train, the "
        "others; trainval keeps all. Train with config.data.train_subset=train and "
        "config.data.eval_subset=val to choose the best checkpoint without the test queries",
    )


def split_validation(trainval: Sequence[str], share: float, camera_digits: int = 1) -> Validation:
    """Split training images by identity; equal identities give equal parts on every machine.

    `val` gets round(share x identities), at least 1, of those seen by two cameras or more, in the
    order of the SHA-256 of their numbers. Each has its queries in one camera, its gallery in the
    others; the cameras take turns. Junk and distractors (identities up to 0) stay in `train`.

    Args:
        trainval: image names.
        share: more than 0, less than 1.
        camera_digits: as of `layout.image_name`.

    Raises:
        UserError: a share out of its range, or too few identities of two cameras.
    """
    if not 0 < share < 1:
        raise UserError(f"--val-share {share}: expected a number from 0 to less than 1")
    table = build_table("val", trainval, {}, camera_digits, Path(), Findings(Path()))
    cameras = {
        person: np.unique(table.cameras[table.person_ids == person]).tolist()
        for person in np.unique(table.person_ids).tolist()
    }
    count = max(1, round(share * len(cameras)))
    fit = [person for person, seen in cameras.items() if person > 0 and len(seen) > 1]
    if len(fit) < count or count >= len(cameras):
        raise UserError(
            f"--val-share {share}: needs {count} of {len(cameras)} training identities; expected "
            f"as many with two cameras or more (there are {len(fit)}), and others left to train on"
        )
    chosen = sorted(sorted(fit, key=lambda p: hashlib.sha256(b"%d" % p).digest())[:count])
    asks = {person: cameras[person][k % len(cameras[person])] for k, person in enumerate(chosen)}
    train: list[str] = []
    val: list[str] = []
    marks: list[int] = []
    for row, (person, camera) in enumerate(zip(table.person_ids, table.cameras, strict=True)):
        frames = table.names[table.offsets[row] : table.offsets[row + 1]].tolist()
        names = [name.decode() for name in frames]
        if int(person) not in asks:
            train += names
        else:
            val += names
            marks += [QUERY if asks[int(person)] == camera else GALLERY] * len(names)
    return Validation(train, val, marks)
