"""PKU-Reid -> the layout, ten splits: `python -m stf_jax.prepare pku-reid`.

Ma, Liu, Hu, Wang and Sun, "Orientation driven bag of appearances for person re-identification",
arXiv 1605.02464. 114 people in two outdoor cameras, eight orientations of the body each. CC
BY-NC-SA 4.0: for research, not for products.

The eight pictures of a person in a camera are a tracklet; they are orientations and no film, so
that nothing about motion can be learnt from them. DIR holds pictures that are named
PERSON_CAMERA_ORIENTATION.png, in one folder as the authors ship them, or CAMERA_ORIENTATION.png
in a folder for each person.

Split k is numpy.random.RandomState(k).permutation of the sorted people: the first half trains.
partitions_00.pkl to partitions_09.pkl have the queries in camera 1 and the gallery in camera 2;
reversed_00.pkl to reversed_09.pkl, of the same halves, the other way round:
--mode evaluate --config.data.partitions=reversed_00.pkl scores the run of partitions_00.pkl so.

example:
  python -m stf_jax.prepare pku-reid --source PKUv1a_128x48 --output data/pku-reid

Run again after an interruption, the same command resumes where it stopped.
"""

import argparse
import os
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from stf_jax.errors import UserError
from stf_jax.prepare.placing import add_placing_arguments
from stf_jax.prepare.published.official_counts import PKU_REID
from stf_jax.prepare.published.source_tracklets import SourceTracklet, is_image, paths_below
from stf_jax.prepare.published.two_cameras import Split, check_people, write_splits

SPLITS = 10
_NAME = re.compile(r"(?:.*/)?([0-9]{1,9})[_/]([0-9]{1,2})_([0-9]{1,2})\.[^.]*")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `prepare pku-reid` to a parser."""
    add_placing_arguments(parser)


def read_pku_reid(source: Path) -> tuple[list[SourceTracklet], list[Split]]:
    """Reads which pictures there are, by their names, and halves the people ten times.

    Raises:
        UserError: no pictures, names of another kind, cameras other than 1 and 2, two pictures of
            one orientation, people whom one camera lacks, or fewer than two people.
    """
    found: dict[tuple[int, int], dict[int, str]] = defaultdict(dict)
    for file in sorted(p for p in paths_below(source) if is_image(os.path.basename(p))):
        match = _NAME.fullmatch(file)
        if match is None or int(match[2]) not in (1, 2):
            raise UserError(
                f"{source / file}: expected PERSON_CAMERA_ORIENTATION.png, or "
                "CAMERA_ORIENTATION.png in a person's folder, with camera 1 or 2; give the folder "
                "of the pictures alone"
            )
        person, camera, orientation = map(int, match.groups())
        other = found[person, camera].setdefault(orientation, file)
        if other != file:
            raise UserError(
                f"{source / file}: {other} is person {person}, camera {camera}, orientation "
                f"{orientation}, too; keep one of them"
            )
    people = sorted({person for person, _ in found})
    if len(people) < 2:
        raise UserError(
            f"{source}: has pictures of {len(people)} people; expected PKU-Reid's folder of "
            "pictures"
        )
    tracklets = [
        SourceTracklet(
            person, camera, 1, tuple(files[o] for o in sorted(files)), tuple(sorted(files))
        )
        for (person, camera), files in found.items()
    ]
    return check_people(tracklets, people, source, "the set"), halvings(people)


def halvings(people: list[int]) -> list[Split]:
    """The ten splits of the sorted people."""
    splits = []
    for seed in range(SPLITS):
        order = np.random.RandomState(seed).permutation(people).tolist()
        half = len(people) // 2
        splits.append(Split(tuple(sorted(order[:half])), tuple(sorted(order[half:]))))
    return splits


def run(args: argparse.Namespace) -> None:
    """Runs `prepare pku-reid`: reads the names, places the images, writes the splits last."""
    write_splits("PKU-Reid", args, *read_pku_reid(args.source), PKU_REID, both_ways=True)
