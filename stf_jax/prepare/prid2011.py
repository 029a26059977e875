"""PRID2011 (multi-shot) -> the layout, all ten splits: `python -m stf_jax.prepare prid2011`.

Hirzer et al., "Person Re-Identification by Descriptive and Discriminative Classification",
SCIA 2011. The splits are those that published results on video use.

The splits come with this program and are over one folder of images: partitions_00.pkl to
partitions_09.pkl. DIR holds prid_2011/multi_shot/cam_a and cam_b. Of the 200 people in both
cameras the 178 with at least 27 frames in each are used, 89 to train and 89 to test. Queries are
camera a (1 in the layout), gallery camera b (2). Published figures are means over the ten splits.

example:
  python -m stf_jax.prepare prid2011 --source prid2011 --output data/prid2011

Run again after an interruption, the same command resumes where it stopped.
"""

import argparse
from pathlib import Path

from stf_jax.errors import UserError
from stf_jax.prepare.placing import add_placing_arguments
from stf_jax.prepare.published.official_counts import PRID2011
from stf_jax.prepare.published.source_tracklets import SourceTracklet
from stf_jax.prepare.published.two_cameras import Split, check_people, read_people, write_splits
from stf_jax.reading.limits import read_json

SPLITS_FILE = Path(__file__).with_name("published") / "prid2011_splits.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `prepare prid2011` to a parser."""
    add_placing_arguments(parser)
    other = "other splits: JSON, a list of {train: [person_0001, ...], test: [...]}"
    parser.add_argument("--splits", type=Path, metavar="FILE", help=other, default=SPLITS_FILE)


def read_splits(path: Path) -> list[Split]:
    """The splits of a JSON file of lists of person folders.

    Raises:
        UserError: anything else, or a person in both halves.
    """
    try:
        values = read_json(path)
        splits = [
            Split(
                *(
                    tuple(sorted(int(name.removeprefix("person_")) for name in value[half]))
                    for half in ("train", "test")
                )
            )
            for value in values
        ]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise UserError(
            f"{path}: holds no splits; expected JSON such as "
            '[{"train": ["person_0001"], "test": ["person_0002"]}]'
        ) from None
    if not splits:
        raise UserError(f"{path}: holds no splits at all")
    for number, split in enumerate(splits):
        everyone = [*split.train, *split.test]
        if len(set(everyone)) < len(everyone) or not split.train or not split.test:
            raise UserError(
                f"{path}: split {number} has a person twice or an empty half; expected each "
                "person in one half"
            )
    return splits


def read_prid2011(source: Path, splits_file: Path) -> tuple[list[SourceTracklet], list[Split]]:
    """Reads the person folders of both cameras that the splits name.

    Raises:
        UserError: folders that are missing, or splits that cannot be read.
    """
    splits = read_splits(splits_file)
    places = ("prid_2011/multi_shot", "multi_shot", "")
    folder, tracklets = read_people(source, places, ("cam_a", "cam_b"), r"person_([0-9]+)")
    people = {person for split in splits for person in (*split.train, *split.test)}
    return check_people(tracklets, people, folder, splits_file.name), splits


def run(args: argparse.Namespace) -> None:
    """Runs `prepare prid2011`: reads everything, places the images, writes the splits last."""
    write_splits("PRID2011", args, *read_prid2011(args.source, args.splits), PRID2011)
