"""Common parts of data sets of people filmed once by each of two cameras, with ten random halvings.

All splits share one folder of images: `partitions_00.pkl` to `partitions_09.pkl`.
"""

import argparse
import itertools
import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stf_jax.data.layout.checks import GALLERY, QUERY, examples
from stf_jax.errors import UserError
from stf_jax.files import is_leftover, leftovers_note
from stf_jax.prepare.layout import write_partitions
from stf_jax.prepare.placing import place_images
from stf_jax.prepare.published.official_counts import comparison
from stf_jax.prepare.published.source_tracklets import LAST_NUMBER, SourceTracklet, is_image

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Identities of the two halves."""

    train: tuple[int, ...]
    test: tuple[int, ...]


def read_people(
    source: Path, places: Sequence[str], cameras: tuple[str, str], pattern: str
) -> tuple[Path, list[SourceTracklet]]:
    """The tracklet of each person folder of camera 1, then of camera 2, by the folders' names.

    Frames are in the order of the last number in their names, which is kept as the offset.

    Args:
        source: folder that the data set was unpacked into.
        places: where in it the folder of both cameras may be.
        cameras: names of the folders of camera 1 and 2.
        pattern: regular expression of a person folder's name; group 1 is the identity.

    Returns:
        The folder of both cameras, and the tracklets.

    Raises:
        UserError: no such folder, no person in it, a person without images, frames whose names
            hold no number or the same one.
    """
    both = next((source / p for p in places if (source / p / cameras[0]).is_dir()), None)
    if both is None:
        tried = " nor ".join(os.path.join(place, cameras[0]) for place in places)
        raise UserError(
            f"{source}: has neither {tried}; give the folder that the data set was unpacked into"
        )
    people, leftovers = [], []
    for camera, camera_name in enumerate(cameras, 1):
        folder = both / camera_name
        try:
            inside = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be read ({error.strerror}); expected a folder for each person"
            ) from None
        below = os.path.relpath(folder, source)
        found = [
            _read_person(folder / name, f"{below}/{name}", int(match[1]), camera, leftovers)
            for name in inside
            if (match := re.fullmatch(pattern, name))
        ]
        if not found:
            raise UserError(
                f"{folder}: has no folder of a person, such as person001; unpack it again"
            )
        people += found
    if leftovers:
        _LOG.warning(leftovers_note(source, leftovers))
    return both, people


def _read_person(
    folder: Path, below: str, person: int, camera: int, leftovers: list[str]
) -> SourceTracklet:
    frames = []
    inside = sorted(os.listdir(folder))
    leftovers += [f"{below}/{name}" for name in inside if is_leftover(name)]
    for name in filter(is_image, inside):
        match = LAST_NUMBER.search(name)
        if match is None:
            raise UserError(f"{folder / name}: has no frame number; expected one before the dot")
        frames.append((int(match[1]), f"{below}/{name}"))
    if not frames:
        raise UserError(f"{folder}: has no images; unpack the data set again")
    frames.sort()
    numbers = tuple(number for number, _ in frames)
    if len(set(numbers)) < len(numbers):
        twice = next(a for a, b in itertools.pairwise(numbers) if a == b)
        raise UserError(f"{folder}: has two images of frame {twice}; keep one of them")
    return SourceTracklet(person, camera, 1, tuple(path for _, path in frames), numbers)


def check_people(
    tracklets: Sequence[SourceTracklet], people: Collection[int], folder: Path, asked_by: str
) -> list[SourceTracklet]:
    """The tracklets of `people`, each of whom must have one in both cameras.

    Raises:
        UserError: those who are missing in a camera, or folders of the same number.
    """
    by_key = {(tracklet.person_id, tracklet.camera): tracklet for tracklet in tracklets}
    if len(by_key) < len(tracklets):
        keys = sorted((tracklet.person_id, tracklet.camera) for tracklet in tracklets)
        person, camera = next(a for a, b in itertools.pairwise(keys) if a == b)
        raise UserError(f"{folder}: person {person} has two folders in camera {camera}; keep one")
    missing = [
        f"{person} in camera {camera}"
        for person in sorted(people)
        for camera in (1, 2)
        if (person, camera) not in by_key
    ]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} folders of people that {asked_by} names are not there "
            f"({examples(missing)}); unpack the data set again"
        )
    return [by_key[person, camera] for person in sorted(people) for camera in (1, 2)]


def write_splits(
    title: str,
    args: argparse.Namespace,
    tracklets: Sequence[SourceTracklet],
    splits: Sequence[Split],
    official: Mapping[str, int],
    *,
    both_ways: bool = False,
) -> None:
    """Places the images, writes a partitions file a split, prints counts and the official ones.

    Camera 1 of the test half is the queries, camera 2 the gallery; with `both_ways` there are
    files `reversed_NN.pkl`, too, where it is the other way round. `args` are source, output and
    copy; `title` names the data set.

    Raises:
        UserError: as `place_images`.
    """
    groups = {(tracklet.person_id, tracklet.camera): [tracklet] for tracklet in tracklets}
    source = title.lower().replace("-", "_")
    receipt = {"source": source, "splits": [[[*s.train], [*s.test]] for s in splits]}
    ways = {"partitions": 1, "reversed": 2} if both_ways else {"partitions": 1}
    files = [
        (f"{way}_{number:02d}.pkl", queries, split)
        for way, queries in ways.items()
        for number, split in enumerate(splits)
    ]
    names, placed = place_images(
        *(args.source, groups, args.output, receipt),
        copy=args.copy,
        partitions=[filename for filename, _, _ in files],
    )
    # partitions_00.pkl comes last: where it is, the layout is whole.
    for filename, queries, split in reversed(files):
        test = [(names[person, camera], camera) for camera in (1, 2) for person in split.test]
        write_partitions(
            args.output,
            trainval=[n for person in split.train for c in (1, 2) for n in names[person, c]],
            test=[name for group, _ in test for name in group],
            test_marks=[
                QUERY if camera == queries else GALLERY for group, camera in test for _ in group
            ],
            filename=filename,
            val_share=args.val_share,
        )
    print(comparison(title, counts(tracklets, splits), official))
    written = f"{args.output / files[0][0]} to {files[len(splits) - 1][0]}"
    also = f", {files[len(splits)][0]} to {files[-1][0]}" if both_ways else ""
    print(f"images: {placed}\nwritten: {written}{also}")


def counts(tracklets: Sequence[SourceTracklet], splits: Sequence[Split]) -> Mapping[str, int]:
    """Counts to compare with the official ones; those of splits where all splits agree."""
    lengths = [len(tracklet.files) for tracklet in tracklets]
    found = {
        "identities": len({tracklet.person_id for tracklet in tracklets}),
        "tracklets": len(tracklets),
        "frames": sum(lengths),
        "shortest": min(lengths),
        "longest": max(lengths),
        "splits": len(splits),
    }
    train, test = ({len(getattr(split, half)) for split in splits} for half in ("train", "test"))
    if len(train) == 1 and len(test) == 1:
        found["train identities of a split"] = train.pop()
        found["query tracklets of a split"] = found["gallery tracklets of a split"] = test.pop()
    return found
