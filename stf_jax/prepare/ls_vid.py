"""LS-VID -> this project's layout: `python -m stf_jax.prepare ls-vid`.

Li et al., "Global-Local Temporal Representations for Video Person Re-Identification", ICCV 2019.

DIR holds the folders of tracklets, list_seq_train.txt,
list_seq_test.txt and info_test.mat; the last three are looked for in list_sequence, test/data,
info/list_sequence, info/data and DIR itself.

Its 15 cameras need two digits in image names (000012_070001_000003.jpg is camera 7): the
partitions file says so with camera_digits = 2. Where list_seq_val.txt and info_val.mat are
there too, their identities become the subset val; trainval is the training list alone, as in
published results.

example:
  python -m stf_jax.prepare ls-vid --source LS-VID --output data/ls-vid

Run again after an interruption, the same command resumes where it stopped.
"""

import argparse
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from stf_jax.data.layout.checks import GALLERY, QUERY
from stf_jax.errors import UserError
from stf_jax.prepare.layout import write_partitions
from stf_jax.prepare.placing import add_placing_arguments, place_images
from stf_jax.prepare.published.ls_vid_lists import read_sequences
from stf_jax.prepare.published.mat_files import read_query_rows
from stf_jax.prepare.published.official_counts import LS_VID, LS_VID_VAL, basic_counts, comparison
from stf_jax.prepare.published.source_tracklets import SourceTracklet

CAMERA_DIGITS = 2  # 15 cameras

PLACES = ("list_sequence", "test/data", "info/list_sequence", "info/data", "info", ".")
add_arguments = add_placing_arguments


@dataclass(frozen=True)
class LsVid:
    """The tracklets of LS-VID, in the order of its lists."""

    groups: Mapping[str, tuple[SourceTracklet, ...]]  # "train", "test" and perhaps "val"
    marks: Mapping[str, Int[np.ndarray, " n"]]  # of each tracklet of "test" and "val"


def find_file(source: Path, name: str) -> Path | None:
    """The first of the usual places that has a file of this name."""
    return next((p for place in PLACES if (p := source / place / name).is_file()), None)


def read_ls_vid(source: Path) -> LsVid:
    """Reads the lists and finds the images of every sequence.

    Raises:
        UserError: lists or images that are missing or do not fit each other.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; give the one that LS-VID was unpacked into")
    paths: dict[str, Path] = {}
    for name in ("list_seq_train.txt", "list_seq_test.txt", "info_test.mat"):
        path = find_file(source, name)
        if path is None:
            raise UserError(
                f"{source}: no {name} in {', '.join(PLACES)}; it belongs to the data set, copy it "
                "to one of these"
            )
        paths[name] = path
    val = {name: find_file(source, name) for name in ("list_seq_val.txt", "info_val.mat")}
    paths |= {name: path for name, path in val.items() if path and all(val.values())}

    subsets = [s for s in ("train", "val", "test") if f"list_seq_{s}.txt" in paths]
    groups = read_sequences(source, {s: paths[f"list_seq_{s}.txt"] for s in subsets})
    marks = {}
    for subset in subsets:
        if subset != "train":
            path = paths[f"info_{subset}.mat"]
            marks[subset] = np.full(len(groups[subset]), GALLERY)
            table = f"list_seq_{subset}.txt"
            marks[subset][read_query_rows(path, len(groups[subset]), table, "query")] = QUERY
    return LsVid(groups, marks)


def counts(data: LsVid) -> dict[str, int]:
    """The counts that `official_counts.LS_VID` has, of these tracklets."""
    found: dict[str, int] = {}
    cameras: set[int] = set()
    for subset, group in data.groups.items():
        found |= basic_counts("test table" if subset == "test" else subset, group)
        cameras |= {tracklet.camera for tracklet in group}
    found["query tracklets"] = int((data.marks["test"] == QUERY).sum())
    found["gallery tracklets"] = int((data.marks["test"] == GALLERY).sum())
    found["cameras"] = len(cameras)
    return found


def run(args: argparse.Namespace) -> None:
    """Runs `prepare ls-vid`: reads everything, places the images, writes partitions.pkl last."""
    data = read_ls_vid(args.source)
    marks: dict[str, list[int]] = {
        subset: np.repeat(each, [len(t.files) for t in data.groups[subset]]).tolist()
        for subset, each in data.marks.items()
    }
    digests = {subset: hashlib.sha256(bytes(each)).hexdigest() for subset, each in marks.items()}
    names, placed = place_images(
        args.source,
        data.groups,
        args.output,
        {"source": "ls_vid", "marks": digests},
        copy=args.copy,
        camera_digits=CAMERA_DIGITS,
    )
    path = write_partitions(
        args.output,
        trainval=names["train"],
        test=names["test"],
        test_marks=marks["test"],
        train=names["train"] if "val" in names else None,
        val=names.get("val"),
        val_marks=marks.get("val"),
        camera_digits=CAMERA_DIGITS,
        val_share=args.val_share,
    )
    official = LS_VID | (LS_VID_VAL if "val" in names else {})
    print(comparison("LS-VID", counts(data), official))
    print(f"images: {placed}\nwritten: {path}")
