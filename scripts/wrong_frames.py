"""A copy of a layout whose tracklets hold frames of somebody else, as where a tracker jumps.

In every tracklet N frames in a row show another person of the same camera and of the same part
(training or test), as numpy's generator of --seed draws. `real_people.sh` with
`--config.data.root=OUTPUT` trains and scores on it. A layout of several splits has frames of its
own for each, so that no training tracklet shows people who are ranked.

example: python scripts/wrong_frames.py data/pku-reid data/pku-wrong --frames 2
"""

import argparse
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stf_jax.data.layout.partitions import load_layout, read_partitions
from stf_jax.errors import UserError, prints_user_errors
from stf_jax.prepare.layout import write_partitions


def shown_frames(
    names: Sequence[str], count: int, generator: np.random.Generator, camera_digits: int = 1
) -> dict[str, str]:
    """Return for each image name that of the picture to be shown: itself, or a wrong one.

    In each tracklet `count` names in a row, at least one less than it has, get those at the same
    places of one tracklet of another person in the same camera. Raises UserError where a camera
    has one person alone.
    """
    tracklets: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in sorted(names):
        person, place, _ = name.split("_")
        tracklets[person, place].append(name)
    shown = {name: name for name in names}
    for (person, place), frames in tracklets.items():
        camera = place[:camera_digits]
        others = [key for key in tracklets if key[0] != person and key[1][:camera_digits] == camera]
        if not others:
            raise UserError(f"{frames[0]}: camera {camera} has no other person to take frames of")
        other = tracklets[others[generator.integers(len(others))]]
        wrong = min(count, len(frames) - 1)
        start = generator.integers(len(frames) - wrong + 1)
        for index in range(start, start + wrong):
            shown[frames[index]] = other[index % len(other)]
    return shown


def write_layout(source: Path, output: Path, count: int, seed: int) -> None:
    """Write the copy of every partitions file of `source`; raises UserError."""
    files = sorted(source.glob("*.pkl"))
    if not files:
        raise UserError(f"{source}: no partitions file (*.pkl); expected a prepared layout")
    if output.exists():
        raise UserError(f"{output}: is there already; expected a new folder")
    plans = [(path.name, *_plan(source, path, count, seed)) for path in files]
    (output / "images").mkdir(parents=True)
    # Both directions of a split have the same images.
    images = {new: picture for _, _, pictures in plans for new, picture in pictures.items()}
    for new, picture in images.items():
        shutil.copyfile(source / "images" / picture, output / "images" / new)
    for name, values, _ in reversed(plans):  # the first file says that all is there
        write_partitions(output, **values, filename=name)
    print(f"written: {output}, {count} wrong frames a tracklet", file=sys.stderr)


def _plan(source: Path, path: Path, count: int, seed: int) -> tuple[dict[str, Any], dict[str, str]]:
    """The partitions of the copy of a file, and which picture of `source` each of its images is."""
    load_layout(source, path.name, subsets=("trainval", "test"))  # its errors are clear
    split = int((re.findall(r"\d+", path.stem) or ["0"])[-1])
    found = read_partitions(path)
    digits = int(found.get("camera_digits", 1))
    values = {"test_marks": found["test_marks"], "camera_digits": digits}
    pictures = {}
    for part, key in enumerate(("trainval", "test")):
        generator = np.random.default_rng([seed, split, part])
        shown = shown_frames(found[f"{key}_im_names"], count, generator, digits)
        renamed = {_renamed(name, digits, split): picture for name, picture in shown.items()}
        values[key] = list(renamed)
        pictures |= renamed
    return values, pictures


def _renamed(name: str, camera_digits: int, split: int) -> str:
    """Each split has tracks of its own: 000012_10003_000045.png is 000012_1020003_000045.png."""
    person, place, frame = name.split("_")
    return f"{person}_{place[:camera_digits]}{split:02d}{place[camera_digits:]}_{frame}"


@prints_user_errors
def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="a prepared layout")
    parser.add_argument("output", type=Path, help="a new folder")
    parser.add_argument("--frames", type=int, default=2, metavar="N", help="of a tracklet")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.frames < 1 or options.seed < 0:
        raise UserError(
            f"--frames {options.frames} --seed {options.seed}: expected 1 or more, 0 or more"
        )
    write_layout(options.source, options.output, options.frames, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
