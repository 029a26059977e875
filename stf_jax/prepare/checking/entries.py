"""The entries of a partitions file one by one: which are bad and why, and a file without them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stf_jax.data.layout.checks import (
    GALLERY,
    MULTI_QUERY,
    QUERY,
    Findings,
    identity,
    read_label_map,
)
from stf_jax.data.layout.names import names_array, parse_names
from stf_jax.data.layout.partitions import SUBSETS
from stf_jax.errors import UserError
from stf_jax.prepare.layout import write_partitions

MARKS = (QUERY, GALLERY, MULTI_QUERY)


@dataclass(frozen=True)
class Entries:
    """The images that one subset lists, in the file's order."""

    subset: str
    names: tuple[str, ...]
    marks: tuple[Any, ...] | None  # as in the file; None for training subsets
    reasons: tuple[str, ...]  # why an entry is bad; "" where it is not


def list_names(values: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The image names of each subset that has any, as text."""
    found = {}
    for subset in SUBSETS:
        names = values.get(f"{subset}_im_names")
        if isinstance(names, list | tuple) and names:
            array = names_array(names)
            found[subset] = tuple(name.decode("utf-8", "backslashreplace") for name in array)
    return found


def judge(
    subset: str, names: Sequence[str], values: Mapping[str, Any], problems: Mapping[str, str]
) -> Entries:
    """Finds the bad entries of one subset.

    Bad are: names that do not parse; a second entry of the same person, camera, track and
    offset; images with a problem; and all entries of a tracklet whose images have different or
    unknown marks, or whose first two substrings are spelt in two ways.

    Args:
        subset: one of SUBSETS.
        names: of its images.
        values: the partitions file's dict.
        problems: image name -> what is wrong with the image.

    Raises:
        UserError: marks that cannot be matched to images.
    """
    marks = values.get(f"{subset}_marks") if subset in ("val", "test") else None
    if subset in ("val", "test"):
        if not isinstance(marks, list | tuple) or len(marks) != len(names):
            count = len(marks) if isinstance(marks, list | tuple) else "no"
            raise UserError(
                f"{subset}_marks: {count} marks for {len(names)} images; which image a mark is of "
                "cannot be known, so nothing can be fixed; write the file again"
            )
        marks = tuple(marks)
    digits = values.get("camera_digits", 1)
    parsed = parse_names(names_array(names), digits if isinstance(digits, int) else 1)
    reasons = ["" if good else "name does not parse" for good in parsed.parsed]
    keys = list(zip(parsed.person_ids, parsed.cameras, parsed.tracks, strict=True))
    seen: set[tuple[Any, ...]] = set()
    spelt: dict[tuple[Any, ...], str] = {}
    marked: dict[tuple[Any, ...], Any] = {}
    bad_tracklets: dict[tuple[Any, ...], str] = {}
    for k, name in enumerate(names):
        if reasons[k]:
            continue
        frame = (*keys[k], parsed.offsets[k])
        if name in problems:
            reasons[k] = problems[name]
        elif frame in seen:
            reasons[k] = "second entry of its person, camera, track and offset"
        else:
            seen.add(frame)
        if spelt.setdefault(keys[k], name.rsplit("_", 1)[0]) != name.rsplit("_", 1)[0]:
            bad_tracklets[keys[k]] = "tracklet spelt in two ways"
        if marks is not None:
            if marks[k] not in MARKS:
                bad_tracklets[keys[k]] = "tracklet with an unknown mark"
            elif marked.setdefault(keys[k], marks[k]) != marks[k]:
                bad_tracklets.setdefault(keys[k], "tracklet with different marks")
    for k, key in enumerate(keys):
        if not reasons[k] and key in bad_tracklets:
            reasons[k] = bad_tracklets[key]
    return Entries(subset, tuple(names), marks, tuple(reasons))


def write_fixed(
    root: Path, filename: str, values: Mapping[str, Any], entries: Sequence[Entries]
) -> list[str]:
    """Writes a partitions file of the good entries; returns what else changed, one line each.

    Raises:
        UserError: nothing is left, or what is left is still not right.
    """
    good: dict[str, list[str]] = {}
    marks: dict[str, list[int]] = {}
    notes = []
    for subset in entries:
        rows = [k for k, reason in enumerate(subset.reasons) if not reason]
        good[subset.subset] = [subset.names[k] for k in rows]
        if subset.marks is not None:
            marks[subset.subset] = [int(subset.marks[k]) for k in rows]
        if not rows:
            notes.append(f"{subset.subset}: no entry is left; the new file has no such subset")
    write_partitions(
        root,
        trainval=good.get("trainval", []),
        test=good.get("test", []),
        test_marks=marks.get("test", []),
        train=good.get("train"),
        val=good.get("val"),
        val_marks=marks.get("val"),
        camera_digits=values.get("camera_digits", 1),
        filename=filename,
    )
    for subset in ("train", "trainval"):
        if good.get(subset) and not _same_labels(good[subset], values.get(f"{subset}_ids2labels")):
            notes.append(
                f"{subset}_ids2labels: numbered anew from 0 by sorted identity; a classifier "
                "trained with the old labels does not fit"
            )
    return notes


def _same_labels(names: Sequence[str], label_map: object) -> bool:
    """Whether the old map numbers the identities that are left as the new file does."""
    old = read_label_map(label_map, "", Findings(Path()))
    people = sorted({identity(name.split("_", 1)[0]) or 0 for name in names})
    return old is not None and old == {person: label for label, person in enumerate(people)}


def counts_by_reason(entries: Sequence[Entries]) -> dict[str, int]:
    """How many entries are bad for each reason, over all subsets; an image counts once."""
    reasons = {
        name: reason
        for subset in entries
        for name, reason in zip(subset.names, subset.reasons, strict=True)
        if reason
    }
    return dict(sorted(Counter(reason.split(" (", 1)[0] for reason in reasons.values()).items()))
