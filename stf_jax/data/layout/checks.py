"""What can be wrong with a layout, each check a function that writes lines into `Findings`.

Every check looks at everything and counts, so that a layout is fixed once, not error by error.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int8, Int64

QUERY, GALLERY, MULTI_QUERY = 0, 1, 2
NO_MARK = -1

_IDENTITY_KEY = re.compile(r"-?[0-9]{1,18}")


@dataclass
class Findings:
    """Lines gathered about one partitions file; errors forbid its use, notes do not."""

    path: Path
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def error(self, text: str) -> None:
        """Adds a line about something that must be fixed."""
        self.errors.append(f"{self.path}: {text}")

    def note(self, text: str) -> None:
        """Adds a line about something unusual that is accepted."""
        self.notes.append(f"{self.path}: {text}")


def shown(value: object) -> str:
    """A value for a message: one line, at most 80 characters."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    if isinstance(text, int) and abs(text) >= 2**64:
        return "a number beyond 64 bits"  # Python refuses to spell long ones
    line = repr(text) if isinstance(text, str | int | float) else f"a {type(value).__name__}"
    return line if len(line) <= 80 else f"{line[:77]}..."


def examples(values: Iterable[object], most: int = 3) -> str:
    """The first few values, for a message: `e.g. 1, 2, 3`."""
    return "e.g. " + ", ".join(shown(value) for value, _ in zip(values, range(most), strict=False))


def identity(key: object) -> int | None:
    """An identity as it is spelt in the wild ('0001', '1', b'1', 1), or None."""
    if isinstance(key, bytes):
        key = key.decode("latin-1")
    if isinstance(key, str):
        return int(key) if _IDENTITY_KEY.fullmatch(key) else None
    return int(key) if isinstance(key, int) and abs(key) < 10**18 else None


def read_label_map(value: object, key: str, findings: Findings) -> dict[int, int] | None:
    """Identity -> label from a `*_ids2labels` entry; labels must be 0..K-1, one each.

    None where the entry is not a map.
    """
    if not isinstance(value, Mapping):
        findings.error(
            f"{key} is {shown(value)}; expected a dict from identity to label; write it again"
        )
        return None
    labels: dict[int, int] = {}
    bad_keys, bad_labels, twice = [], [], []
    for spelt, label in value.items():
        person = identity(spelt)
        if person is None:
            bad_keys.append(spelt)
        elif not isinstance(label, int) or abs(label) >= 10**18:
            bad_labels.append(label)
        elif labels.setdefault(person, int(label)) != label:
            twice.append(person)
    if bad_keys:
        findings.error(
            f"{key}: {len(bad_keys)} keys are not identities ({examples(bad_keys)}); "
            "expected whole numbers, as text or int"
        )
    if bad_labels:
        findings.error(
            f"{key}: {len(bad_labels)} labels are not integers ({examples(bad_labels)}); "
            "number the identities from 0"
        )
    if twice:
        findings.error(
            f"{key}: {len(twice)} identities are spelt in two ways with different labels "
            f"({examples(sorted(twice))}); keep one entry for each"
        )
    count = len(labels)
    found = Counter(labels.values())
    missing = [label for label in range(count) if label not in found]
    if missing:
        shared = sum(times > 1 for times in found.values())
        findings.error(
            f"{key}: {count} identities have labels {min(found)}..{max(found)}, "
            f"{shared} of them shared by several; expected each of 0..{count - 1} once "
            f"(missing: {examples(missing)}); number the identities from 0"
        )
    return labels


def label_identities(
    person_ids: Int64[np.ndarray, " n"], labels: Mapping[int, int], subset: str, findings: Findings
) -> Int64[np.ndarray, " n"]:
    """The label of each tracklet; -1, and a finding, where its identity has none."""
    present = np.unique(person_ids)
    unlabelled = [person for person in present.tolist() if person not in labels]
    if unlabelled:
        findings.error(
            f"{subset}: {len(unlabelled)} of {len(present)} identities have no entry in "
            f"{subset}_ids2labels ({examples(unlabelled)}); add them or drop their images"
        )
    unseen = sorted(labels.keys() - set(present.tolist()))
    if unseen:
        findings.note(
            f"{subset}_ids2labels: {len(unseen)} of {len(labels)} identities have no image "
            f"({examples(unseen)}); their labels are never trained"
        )
    table = np.array([labels.get(person, -1) for person in present.tolist()], np.int64)
    return table[np.searchsorted(present, person_ids)]


def read_marks(value: Sequence[object], key: str, findings: Findings) -> Int8[np.ndarray, " f"]:
    """Marks per image; an unknown mark is a finding and becomes NO_MARK."""
    unknown = [mark for mark in value if mark not in (QUERY, GALLERY, MULTI_QUERY)]
    if unknown:
        findings.error(
            f"{key}: {len(unknown)} of {len(value)} marks are unknown ({examples(unknown)}); "
            "expected 0 query, 1 gallery or 2 multi-query"
        )
        value = [mark if mark in (QUERY, GALLERY, MULTI_QUERY) else NO_MARK for mark in value]
    return np.array(value, dtype=np.int8)


def check_cameras(
    second_widths: Int64[np.ndarray, " n"],
    cameras: Int64[np.ndarray, " n"],
    tracks: Int64[np.ndarray, " n"],
    camera_digits: int,
    subset: str,
    findings: Findings,
) -> None:
    """Notes signs that cameras have more digits than were read.

    Args:
        second_widths: digits of the second substring of each tracklet.
        cameras, tracks: as read from it.
    """
    seen = np.unique(cameras)
    widest = int(second_widths.max(initial=0))
    track_width = widest - camera_digits
    hint = "if your cameras have more digits, set camera_digits in the partitions file"
    leading = tracks // 10 ** max(track_width - 1, 0)
    if second_widths.min(initial=widest) < widest and np.any(
        (second_widths == widest) & (leading == 0)
    ):
        findings.note(
            f"{subset}: camera and track have {second_widths.min()} to {widest} digits and the "
            f"longest have zero-padded tracks; read as cameras ({examples(seen.tolist(), 12)}); "
            f"{hint}"
        )
    elif seen.max() <= 1 and 0 in seen and track_width > 1 and np.any(leading != 0):
        findings.note(
            f"{subset}: all cameras are 0 or 1 and track numbers fill all "
            f"their digits (up to {tracks.max()}); {hint}"
        )


def unmatched_queries(
    person_ids: Int64[np.ndarray, " n"],
    cameras: Int64[np.ndarray, " n"],
    marks: Int8[np.ndarray, " n"],
) -> Bool[np.ndarray, " n"]:
    """Which tracklets are queries that no gallery tracklet of another camera matches."""
    gallery_cameras: defaultdict[int, set[int]] = defaultdict(set)
    rows = list(zip(person_ids.tolist(), cameras.tolist(), marks.tolist(), strict=True))
    for person, camera, mark in rows:
        if mark == GALLERY:
            gallery_cameras[person].add(camera)
    unmatched = [
        mark == QUERY and not gallery_cameras[person] - {camera} for person, camera, mark in rows
    ]
    return np.array(unmatched, bool)


def check_ranking(
    person_ids: Int64[np.ndarray, " n"],
    cameras: Int64[np.ndarray, " n"],
    marks: Int8[np.ndarray, " n"],
    subset: str,
    findings: Findings,
) -> None:
    """Notes which queries, or that all of them, cannot be scored."""
    queries, gallery = (int((marks == mark).sum()) for mark in (QUERY, GALLERY))
    if not queries or not gallery:
        findings.note(
            f"{subset}: {queries} query and {gallery} gallery tracklets; nothing can be ranked"
        )
        return
    if len(np.unique(cameras)) == 1:
        findings.note(
            f"{subset}: every tracklet is of camera {cameras[0]}; matches in the query's own "
            "camera do not count, so none is left; if the camera has more digits than one, set "
            "camera_digits in the partitions file"
        )
    unmatched = unmatched_queries(person_ids, cameras, marks)
    if unmatched.any():
        people = np.unique(person_ids[unmatched]).tolist()
        findings.note(
            f"{subset}: {int(unmatched.sum())} of {queries} queries have no gallery tracklet of "
            f"their identity in another camera (identities {examples(people)}); they are left "
            "out of scores"
        )
