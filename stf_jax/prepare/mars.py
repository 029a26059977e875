"""MARS as its authors give it -> this project's layout: `python -m stf_jax.prepare mars`.

Zheng et al., "MARS: A Video Benchmark for Large-Scale Person Re-identification", ECCV 2016.

DIR holds bbox_train, bbox_test and info (train_name.txt,
test_name.txt, tracks_train_info.mat, tracks_test_info.mat, query_IDX.mat); the last is also
looked for in MARS-evaluation-master/info.

Everything is kept. Each row of the authors' tables becomes a tracklet. The rows that query_IDX
names are marked query, all others of the test table gallery: junk as identity -1 (images
-00001_...), distractors as identity 0. A query is also a gallery entry under the protocols
mars-official and step+queries, which is for the evaluation to do. Track numbers and image
offsets are those of MARS's own names where these can be read and are unique.

example:
  python -m stf_jax.prepare mars --source MARS --output data/mars

Run again after an interruption, the same command resumes where it stopped.
"""

import argparse
import dataclasses
import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from stf_jax.data.layout.checks import GALLERY, QUERY, examples, unmatched_queries
from stf_jax.prepare.layout import write_partitions
from stf_jax.prepare.placing import add_placing_arguments, place_images
from stf_jax.prepare.published.mars_tables import NAME, Table, find_info, read_table, unofficial
from stf_jax.prepare.published.mat_files import read_query_rows
from stf_jax.prepare.published.official_counts import MARS, basic_counts, comparison
from stf_jax.prepare.published.source_tracklets import SourceTracklet, files_below, find_all

JUNK, DISTRACTOR = -1, 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `prepare mars` to a parser."""
    add_placing_arguments(parser)
    parser.add_argument(
        "--info", type=Path, metavar="DIR", help="of the tables, if it is at another place"
    )


@dataclass(frozen=True)
class Mars:
    """The tracklets of MARS, in the order of the authors' tables."""

    train: tuple[SourceTracklet, ...]
    test: tuple[SourceTracklet, ...]
    marks: Int[np.ndarray, " n"]  # of each test tracklet: QUERY or GALLERY
    notes: tuple[str, ...]  # what is unusual and kept, one line each


def _named_numbers(names: list[str], person: int, camera: int) -> tuple[int | None, list[int]]:
    """The track and frame numbers that all names of a tracklet agree upon; None, [] if not."""
    matches = [NAME.fullmatch(name) for name in names]
    parsed = [match for match in matches if match]
    said = {(int(m[1].replace("00-1", "-1")), int(m[2]), int(m[3])) for m in parsed}
    if len(parsed) < len(names) or len(said) != 1:
        return None, []
    (numbers,) = said
    if numbers[:2] != (person, camera):
        return None, []
    frames = [int(match[4]) for match in parsed]
    ascending = all(a < b for a, b in itertools.pairwise(frames))
    return numbers[2], frames if ascending else []


def plan_tracklets(
    tables: Mapping[str, Table], files: Mapping[str, list[str]], query_rows: Int[np.ndarray, " q"]
) -> Mars:
    """The tracklets of MARS from its tables.

    Args:
        tables: "train" and "test".
        files: for each, the path of each line of its list of names.
        query_rows: rows of the test table, from 0.
    """
    taken: defaultdict[tuple[int, int], set[int]] = defaultdict(set)  # tracks of person and camera
    numbers: dict[tuple[str, int], tuple[int | None, list[int]]] = {}
    for subset, table in tables.items():
        for row, (start, stop, person, camera) in enumerate(table.rows.tolist()):
            track, frames = _named_numbers(table.names[start:stop], person, camera)
            if track in taken[person, camera]:
                track = None
            if track is not None:
                taken[person, camera].add(track)
            numbers[subset, row] = track, frames
    notes = []
    planned: dict[str, tuple[SourceTracklet, ...]] = {}
    for subset, table in tables.items():
        group, misnamed = [], []
        for row, (start, stop, person, camera) in enumerate(table.rows.tolist()):
            track, frames = numbers[subset, row]
            if track is None:
                track = max(taken[person, camera], default=0) + 1
                taken[person, camera].add(track)
                misnamed.append(table.names[start])
            offsets = tuple(frames or range(1, stop - start + 1))
            paths = tuple(files[subset][start:stop])
            group.append(SourceTracklet(person, camera, track, paths, offsets))
        if misnamed:
            notes.append(
                f"{table.path}: {len(misnamed):,} of {len(group):,} tracklets have names that do "
                "not give the table's person and camera or a track of their own "
                f"({examples(misnamed)}); kept as the table has them, with new track numbers"
            )
        unused = len(table.names) - int((table.rows[:, 1] - table.rows[:, 0]).sum())
        if unused:
            notes.append(
                f"{table.names_path}: {unused:,} of {len(table.names):,} images are in no "
                f"tracklet of {table.path.name}; left out"
            )
        planned[subset] = tuple(group)
    marks = np.full(len(planned["test"]), GALLERY)
    marks[query_rows] = QUERY
    return Mars(planned["train"], planned["test"], marks, tuple(notes))


def counts(mars: Mars) -> dict[str, int]:
    """The counts that `official_counts.MARS` has, of these tracklets."""
    queries = [mars.test[row] for row in np.flatnonzero(mars.marks == QUERY)]
    found: dict[str, int] = {}
    for what, group in (("train", mars.train), ("test table", mars.test), ("query", queries)):
        found |= basic_counts(what, group)
        if what != "test table":
            cameras = Counter(tracklet.camera for tracklet in group)
            found |= {f"{what} camera {c} tracklets": n for c, n in sorted(cameras.items())}
    people, cameras, lengths = np.array(
        [(t.person_id, t.camera, len(t.files)) for t in mars.test]
    ).T
    gallery = people[mars.marks == GALLERY]
    unmatched = unmatched_queries(people, cameras, mars.marks.astype(np.int8))
    return found | {
        "gallery tracklets": len(gallery),
        "gallery junk tracklets": int((gallery == JUNK).sum()),
        "gallery distractor tracklets": int((gallery == DISTRACTOR).sum()),
        "gallery people's tracklets": int((gallery > DISTRACTOR).sum()),
        "gallery people": len(np.unique(gallery[gallery > DISTRACTOR])),
        "queries unmatched in the gallery": int(unmatched.sum()),
        "25-frame chunks without junk": int((-(-lengths[people != JUNK] // 25)).sum()),
    }


def read_mars(source: Path, info: Path | None = None) -> Mars:
    """Reads and checks the tables, and finds every image that they name.

    Raises:
        UserError: tables or images that are missing or contradict each other.
    """
    info = find_info(source, info)
    tables = {subset: read_table(info, subset) for subset in ("train", "test")}
    table = "tracks_test_info.mat"
    query_rows = read_query_rows(info / "query_IDX.mat", len(tables["test"].rows), table)
    files = {}
    for subset, table in tables.items():
        folder = f"bbox_{subset}"
        found = files_below(source / folder)
        paths = find_all(table.names, found, source / folder, table.names_path)
        files[subset] = [f"{folder}/{path}" for path in paths]
    mars = plan_tracklets(tables, files, query_rows)
    return dataclasses.replace(mars, notes=(*unofficial(info), *mars.notes))


def run(args: argparse.Namespace) -> None:
    """Runs `prepare mars`: reads everything, places the images, writes partitions.pkl last."""
    mars = read_mars(args.source, args.info)
    marks = np.repeat(mars.marks, [len(tracklet.files) for tracklet in mars.test]).tolist()
    receipt = {"source": "mars", "marks": hashlib.sha256(bytes(marks)).hexdigest()}
    groups = {"train": mars.train, "test": mars.test}
    names, placed = place_images(args.source, groups, args.output, receipt, copy=args.copy)
    path = write_partitions(
        args.output,
        trainval=names["train"],
        test=names["test"],
        test_marks=marks,
        val_share=args.val_share,
    )
    print(comparison("MARS", counts(mars), MARS))
    print(*mars.notes, sep="\n", end="\n" if mars.notes else "")
    print(f"images: {placed}\nwritten: {path}")
