"""One subset of a layout as a table of tracklets, built from image names, labels and marks."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int8, Int64

from stf_jax.data.layout.checks import (
    NO_MARK,
    Findings,
    check_cameras,
    check_ranking,
    examples,
    label_identities,
    read_label_map,
    read_marks,
    shown,
)
from stf_jax.data.layout.names import ParsedNames, names_array, parse_names

TRAINING_SUBSETS = ("train", "trainval")


@dataclass(frozen=True, eq=False)
class TrackletTable:
    """All tracklets of one subset, sorted by (person, camera, track).

    The frames of tracklet i are `names[offsets[i]:offsets[i + 1]]`, in time order.
    """

    image_dir: Path  # the folder that the names are relative to
    names: np.ndarray  # [F] 'S' fixed-width bytes, utf-8
    offsets: Int64[np.ndarray, " n_plus_1"]
    person_ids: Int64[np.ndarray, " n"]  # may be negative: MARS junk is -1
    cameras: Int64[np.ndarray, " n"]
    tracks: Int64[np.ndarray, " n"]
    marks: Int8[np.ndarray, " n"]  # QUERY, GALLERY or MULTI_QUERY; -1 in training subsets
    labels: Int64[np.ndarray, " n"]  # classifier label 0..K-1; -1 in subsets to rank

    @property
    def num_tracklets(self) -> int:
        """N, the number of tracklets."""
        return len(self.person_ids)

    @property
    def num_frames(self) -> int:
        """F, the number of frames of all tracklets."""
        return len(self.names)

    @property
    def lengths(self) -> Int64[np.ndarray, " n"]:
        """Frames of each tracklet, at least 1."""
        return np.diff(self.offsets)

    @property
    def num_labels(self) -> int:
        """Classes that a classifier needs: the highest label + 1; 0 without labels."""
        return int(self.labels.max(initial=-1)) + 1

    def part(self, first: int, end: int) -> "TrackletTable":
        """The tracklets `first` to `end` - 1, with their frames."""
        frames = slice(*self.offsets[[first, end]].tolist())
        of_tracklets = ("person_ids", "cameras", "tracks", "marks", "labels")
        return replace(
            self,
            names=self.names[frames],
            offsets=self.offsets[first : end + 1] - self.offsets[first],
            **{name: getattr(self, name)[first:end] for name in of_tracklets},
        )

    @property
    def checksum(self) -> int:
        """CRC-32 of all arrays: equal for the same images, identities and marks in any folder."""
        checksum = 0
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                checksum = zlib.crc32(value.tobytes(), checksum)
        return checksum


def build_table(
    subset: str,
    values: Sequence[object],
    partitions: Mapping[str, Any],
    camera_digits: int,
    image_dir: Path,
    findings: Findings,
) -> TrackletTable:
    """The table of one subset from its image names and the entries that go with them.

    Args:
        subset: "train" or "trainval" (identities have labels), "val" or "test" (images have
            marks).
        values: image names, text or bytes.
        partitions: the dict of the partitions file, for `<subset>_ids2labels` and
            `<subset>_marks`.
        camera_digits: see `stf_jax.data.layout.names.parse_names`.
        image_dir: folder that the names are relative to.
        findings: takes errors and notes. After an error the table holds what could be read.
    """
    parsed = _parse(subset, values, camera_digits, findings)
    keys = (parsed.person_ids, parsed.cameras, parsed.tracks, parsed.offsets)
    order = np.lexsort(keys[::-1])
    order = order[parsed.parsed[order]]
    names = parsed.names[order]
    numbers = np.stack([key[order] for key in keys])
    is_first = np.ones(len(order), bool)
    is_first[1:] = np.any(numbers[:3, 1:] != numbers[:3, :-1], axis=0)
    first = np.flatnonzero(is_first)
    which = np.cumsum(is_first) - 1  # the tracklet of each frame
    person_ids, cameras, tracks = numbers[:3, first]
    widths = parsed.widths[order]

    repeats = np.flatnonzero(~is_first[1:] & (numbers[3, 1:] == numbers[3, :-1]))
    _check_frames(subset, names, repeats, which, first, widths, findings)
    marks = np.full(len(first), NO_MARK, np.int8)
    labels = np.full(len(first), -1, np.int64)
    if subset in TRAINING_SUBSETS:
        key = f"{subset}_ids2labels"
        if key not in partitions:
            findings.error(f"no {key} for {subset}_im_names; add the map of labels")
        elif (label_map := read_label_map(partitions[key], key, findings)) is not None:
            labels = label_identities(person_ids, label_map, subset, findings)
    else:
        frame_marks = _frame_marks(subset, partitions, len(values), findings)
        if frame_marks is not None:
            marks = _tracklet_marks(subset, names, frame_marks[order], which, first, findings)
            check_ranking(person_ids, cameras, marks, subset, findings)
    if len(first):
        check_cameras(widths[first, 1], cameras, tracks, camera_digits, subset, findings)
    return TrackletTable(
        image_dir=image_dir,
        names=names,
        offsets=np.append(first, len(names)).astype(np.int64),
        person_ids=person_ids,
        cameras=cameras,
        tracks=tracks,
        marks=marks,
        labels=labels,
    )


def _parse(
    subset: str, values: Sequence[object], camera_digits: int, findings: Findings
) -> ParsedNames:
    parsed = parse_names(names_array(values), camera_digits)
    bad = parsed.names[~parsed.parsed]
    if len(bad):
        camera = "" if camera_digits == 1 else f" (the camera has {camera_digits} digits)"
        findings.error(
            f"{subset}_im_names: {len(bad)} of {len(values)} names do not parse "
            f"({examples(bad.tolist())}); expected <person>_<camera><track>_<offset>.png, .jpg or "
            f".jpeg, all numbers{camera}; rename these images"
        )
    return parsed


def _check_frames(
    subset: str,
    names: np.ndarray,
    repeats: Int64[np.ndarray, " r"],
    which: Int64[np.ndarray, " f"],
    first: Int64[np.ndarray, " n"],
    widths: Int64[np.ndarray, "f 2"],
    findings: Findings,
) -> None:
    if len(repeats):
        pair = {shown(names[repeats[0]]), shown(names[repeats[0] + 1])}
        findings.error(
            f"{subset}_im_names: {len(repeats)} of {len(names)} images are duplicates: the same "
            f"person, camera, track and offset (e.g. {' and '.join(sorted(pair))}); keep one of "
            "each"
        )
    respelt = np.unique(which[np.any(widths != widths[first][which], axis=1)])
    if len(respelt):
        findings.error(
            f"{subset}_im_names: {len(respelt)} of {len(first)} tracklets have their first two "
            "substrings spelt with different numbers of digits (e.g. that of "
            f"{shown(names[first[respelt[0]]])}); spell them the same way, or give the tracks "
            "different numbers"
        )


def _tracklet_marks(
    subset: str,
    names: np.ndarray,
    frame_marks: Int8[np.ndarray, " f"],
    which: Int64[np.ndarray, " f"],
    first: Int64[np.ndarray, " n"],
    findings: Findings,
) -> Int8[np.ndarray, " n"]:
    marks = frame_marks[first]
    mixed = np.unique(which[frame_marks != marks[which]])
    if len(mixed):
        kinds = np.unique(frame_marks[which == mixed[0]]).tolist()
        findings.error(
            f"{subset}_marks: {len(mixed)} of {len(first)} tracklets have images with different "
            f"marks (e.g. that of {shown(names[first[mixed[0]]])}: {kinds}); give the "
            "images of a tracklet one mark"
        )
    return marks


def _frame_marks(
    subset: str, partitions: Mapping[str, Any], num_images: int, findings: Findings
) -> Int8[np.ndarray, " f"] | None:
    key = f"{subset}_marks"
    if key not in partitions:
        findings.error(f"no {key} for {subset}_im_names; add a mark for each image")
        return None
    value = partitions[key]
    if not isinstance(value, list | tuple):
        findings.error(f"{key} is {shown(value)}; expected a list or array of marks")
        return None
    marks = read_marks(value, key, findings)
    if len(marks) != num_images:
        findings.error(
            f"{key} has {len(marks)} marks for {num_images} images; expected one for each"
        )
        return None
    return marks
