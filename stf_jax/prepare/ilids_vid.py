"""iLIDS-VID -> this project's layout, all ten splits: `python -m stf_jax.prepare ilids-vid`.

Wang et al., "Person Re-Identification by Video Ranking", ECCV 2014.

The splits are over one folder of images: partitions_00.pkl to partitions_09.pkl. DIR holds
i-LIDS-VID/sequences/cam1 and cam2, and "train-test people splits/train_test_splits_ilidsvid.mat".
Queries are camera 1, gallery camera 2. Published figures are means over the ten splits.

example:
  python -m stf_jax.prepare ilids-vid --source iLIDS-VID --output data/ilids-vid

Run again after an interruption, the same command resumes where it stopped.
"""

import argparse
from pathlib import Path

import numpy as np

from stf_jax.errors import UserError
from stf_jax.prepare.placing import add_placing_arguments
from stf_jax.prepare.published.mat_files import read_mat
from stf_jax.prepare.published.official_counts import ILIDS_VID
from stf_jax.prepare.published.source_tracklets import SourceTracklet
from stf_jax.prepare.published.two_cameras import Split, check_people, read_people, write_splits

SPLITS_FILE = "train-test people splits/train_test_splits_ilidsvid.mat"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `prepare ilids-vid` to a parser."""
    add_placing_arguments(parser)
    parser.add_argument("--splits", type=Path, metavar="FILE", help="if it is at another place")


def read_splits(path: Path, people: list[int]) -> list[Split]:
    """The splits: in a row of `ls_set`, the first half of the places are test people.

    Args:
        path: train_test_splits_ilidsvid.mat; `ls_set` is [splits, people], places from 1.
        people: identities in the order of their folders' names, which the places count.

    Raises:
        UserError: a row that is not a permutation of these people.
    """
    places = read_mat(path, "ls_set")
    everyone = np.arange(1, len(people) + 1)
    splits = []
    for number, row in enumerate(places):
        if not np.array_equal(np.sort(row), everyone):
            raise UserError(
                f"{path}: split {number} holds {len(row)} places from {row.min()} to {row.max()}; "
                f"expected each of the {len(people)} people in sequences/cam1 once; unpack the "
                "data set again"
            )
        chosen = [people[place - 1] for place in row.tolist()]
        half = len(chosen) // 2
        splits.append(Split(tuple(sorted(chosen[half:])), tuple(sorted(chosen[:half]))))
    if not splits:
        raise UserError(f"{path}: ls_set has no rows; get the file again")
    return splits


def read_ilids_vid(
    source: Path, splits_file: Path | None = None
) -> tuple[list[SourceTracklet], list[Split]]:
    """Reads the person folders of both cameras and the splits.

    Raises:
        UserError: folders or splits that are missing or do not fit each other.
    """
    places = ("i-LIDS-VID/sequences", "sequences")
    folder, tracklets = read_people(source, places, ("cam1", "cam2"), r"person([0-9]+)")
    people = [tracklet.person_id for tracklet in tracklets if tracklet.camera == 1]
    others = {tracklet.person_id for tracklet in tracklets if tracklet.camera == 2}
    checked = check_people(tracklets, {*people, *others}, folder, "the other camera")
    if splits_file is None:
        choices = [place / SPLITS_FILE for place in (source, folder.parent, source.parent)]
        splits_file = next((path for path in choices if path.is_file()), choices[0])
    return checked, read_splits(splits_file, people)


def run(args: argparse.Namespace) -> None:
    """Runs `prepare ilids-vid`: reads everything, places the images, writes the splits last."""
    write_splits("iLIDS-VID", args, *read_ilids_vid(args.source, args.splits), ILIDS_VID)
