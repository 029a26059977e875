"""Reading MOT-challenge track files, in the variants that trackers and annotation tools write."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from stf_jax.errors import UserError
from stf_jax.prepare.tracks.formats import other_format
from stf_jax.reading.limits import read_text

SHOWN_FINDINGS = 5
BOXES = ("size", "corners", "centre")
FEW_BOXES = 10  # too few to tell corners from sizes by
# Python's own float() reads 1_12 as 112, and digits of any script.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"([+-]?\d{1,20})(\.0*)?", re.ASCII)


@dataclass(frozen=True)
class TrackFile:
    """All boxes of one camera, ordered by (id, frame).

    Columns a file does not have hold NaN (`confidences`, `visibilities`) or -1 (`classes`); a
    confidence of -1 is the trackers' own way to say that they give none.
    """

    path: Path
    first_frame: int  # the number that the file gives to the video's first frame
    ids: Int[np.ndarray, " n"]
    frames: Int[np.ndarray, " n"]  # place in the video, from 0
    boxes: Float[np.ndarray, "n 4"]  # left, top, width, height in pixels
    confidences: Float[np.ndarray, " n"]
    classes: Int[np.ndarray, " n"]
    visibilities: Float[np.ndarray, " n"]
    ignored: int = 0  # boxes left out because the annotation flags them with a 0


def _fields(line: str) -> list[str]:
    fields = [field.strip() for field in (line.split(",") if "," in line else line.split())]
    while len(fields) > 6 and not fields[-1]:  # a comma at the end of the line
        fields.pop()
    return fields


def _number(field: str) -> float:
    """The field's number; NaN where it is none."""
    return float(field) if _NUMBER.fullmatch(field) else math.nan


def _whole(field: str, value: float) -> int | None:
    """The field's whole number, exactly; None where it is none, or not of 64 bits."""
    exact = _WHOLE.fullmatch(field)
    if exact is None and (value != math.floor(value) or abs(value) >= 2**53):
        return None  # such as 1e+20, of which a float has lost digits
    found = int(exact[1]) if exact else int(value)
    return found if -(2**63) <= found < 2**63 else None


def _raise_findings(findings: list[str]) -> None:
    if findings:
        rest = len(findings) - SHOWN_FINDINGS
        more = [f"... and {rest} more findings of this kind"] if rest > 0 else []
        raise UserError("\n".join(findings[:SHOWN_FINDINGS] + more))


def _read_numbers(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The file as a table [n, columns] of finite float64; frames and ids [n, 2]; lines [n]."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected one file of tracks for the whole video")
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such track file") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a readable text file ({error}); expected UTF-8, which ASCII is, too"
        ) from None
    rows: list[list[float]] = []
    keys: list[list[int]] = []
    numbers: list[int] = []
    findings: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        fields = _fields(line)
        values = [_number(field) for field in fields]
        if not rows and not findings and (reason := other_format(fields, values)):
            columns = "frame,id,left,top,width,height[,confidence[,class[,visibility]]]"
            raise UserError(f"{path}:{number}: {reason}; expected {columns} in pixels")
        bad = [f for f, value in zip(fields, values, strict=True) if not math.isfinite(value)]
        if bad:
            findings.append(
                f"{path}:{number}: {bad[0]!r} is not a finite number; expected "
                "frame,id,left,top,width,height[,confidence,...] and no header line"
            )
        elif not 6 <= len(values) <= 10:
            findings.append(
                f"{path}:{number}: {len(values)} columns; expected 6 to 10, "
                "frame,id,left,top,width,height[,confidence[,class[,visibility]]]"
            )
        elif rows and len(values) != len(rows[0]):
            findings.append(
                f"{path}:{number}: {len(values)} columns where line {numbers[0]} has "
                f"{len(rows[0])}; fix or remove the line (was the file cut off while written?)"
            )
        else:
            whole = [_whole(f, value) for f, value in zip(fields[:2], values[:2], strict=True)]
            for what, field, key in zip(("frame", "id"), fields, whole, strict=False):
                if key is None:
                    findings.append(
                        f"{path}:{number}: {what} {field} is not a whole number of 64 bits"
                    )
            rows.append(values)
            keys.append([key or 0 for key in whole])
            numbers.append(number)
    _raise_findings(findings)
    if not rows:
        raise UserError(f"{path}: no tracks in it; expected a line for each box")
    return np.array(rows), np.array(keys, np.int64), np.array(numbers)


def _check_frames_and_ids(
    path: Path, keys: np.ndarray, lines: np.ndarray, first_frame: int
) -> None:
    early = keys[:, 0] < first_frame
    if early.any():
        row = int(np.flatnonzero(early)[0])
        zero_based = first_frame == 1 and keys[:, 0].min() == 0
        hint = (
            "its frames count from 0: pass --first-frame 0"
            if zero_based
            else "frame numbers must not be negative"
        )
        raise UserError(
            f"{path}:{lines[row]}: frame {keys[row, 0]}, {int(early.sum())} boxes before "
            f"frame {first_frame}, the number of the video's first frame; {hint}"
        )
    negative = keys[:, 1] < 0
    if negative.any():
        row = int(np.flatnonzero(negative)[0])
        raise UserError(
            f"{path}:{lines[row]}: id {keys[row, 1]}, {int(negative.sum())} of {len(keys)} "
            "boxes have a negative id, which marks detections without a track; give the "
            "output of a tracker, not of a detector"
        )


def _check_duplicates(path: Path, keys: np.ndarray, lines: np.ndarray) -> None:
    order = np.lexsort((lines, keys[:, 0], keys[:, 1]))
    same = np.all(keys[order[1:]] == keys[order[:-1]], axis=1)
    pairs = zip(order[:-1][same], order[1:][same], strict=True)
    _raise_findings(
        [
            f"{path}:{lines[second]}: id {keys[second, 1]} is in frame {keys[second, 0]} "
            f"twice, the other time in line {lines[first]}; keep one of them"
            for first, second in pairs
        ]
    )


def from_centres(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """Boxes of centre, width, height as left, top, width, height."""
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


def _sizes(path: Path, boxes: np.ndarray, kind: str | None) -> np.ndarray:
    """Boxes as left, top, width, height; None is these, unless they look like corners."""
    right_of_left = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    if kind is None and right_of_left.all() and len(boxes) >= FEW_BOXES:
        raise UserError(
            f"{path}: columns 5 and 6 are above columns 3 and 4 in all {len(boxes)} boxes, as in "
            "corners (left, top, right, bottom); pass --boxes corners, or --boxes size where they "
            "are left, top, width, height"
        )
    if kind == "corners":
        if not right_of_left.all():
            row = int(np.flatnonzero(~right_of_left)[0])
            raise UserError(
                f"{path}: the box {boxes[row].tolist()} has no corners left, top, right, bottom; "
                "leave out --boxes corners"
            )
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    if kind == "centre":
        return from_centres(boxes)
    return boxes


def _is_visdrone(table: np.ndarray) -> bool:
    """Ten columns that end in a flag, a class 0 to 11, a flag and an occlusion 0 to 2."""
    if table.shape[1] != 10 or not table[:, 9].any():
        return False
    limits = np.array([1, 11, 1, 2])
    last = table[:, 6:]
    return bool(((last == np.floor(last)) & (last >= 0) & (last <= limits)).all())


def _classes_and_visibilities(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns 8 and 9 where they hold a class and a visibility.

    Ten columns are ambiguous: three world coordinates (filled with -1 in two dimensions), an
    annotation with one column more, or a tracker's class followed by two times -1. Only the second
    has whole numbers followed by shares of one throughout. A visibility is an annotation's, whose
    seventh column is a flag; where that is a confidence, the ninth is a tracker's own number.
    """
    count, columns = table.shape
    classes, visibilities = np.full(count, -1, np.int64), np.full(count, np.nan)
    if columns < 8:
        return classes, visibilities
    eighth = table[:, 7]
    ninth = table[:, 8] if columns > 8 else visibilities
    is_class = bool(np.all(eighth == np.floor(eighth)) and np.any(eighth >= 0))
    has_flags = bool(np.all(np.isin(table[:, 6], (0, 1))))
    is_share = columns > 8 and has_flags and bool(np.all((ninth >= 0) & (ninth <= 1)))
    is_filled = columns == 10 and bool(np.all(table[:, 8:] == -1))
    if is_class and (columns < 10 or is_share or is_filled):
        classes = eighth.astype(np.int64)
        if is_share:
            visibilities = ninth
    return classes, visibilities


def read_tracks(
    path: str | os.PathLike[str], *, first_frame: int = 1, boxes: str | None = None
) -> TrackFile:
    """Reads one track file.

    Accepted: commas or white space between the columns, spaces and a comma at a line's end, blank
    lines and lines that start with `#`, a byte order mark, whole numbers written as `1.0`, and
    columns (numbers of columns, as in the MOT challenges and the tools that follow them)

    - 6, 7: frame, id, left, top, width, height [, confidence];
    - 8, 9: the same, then a class [, visibility] (MOT16, MOT17 and MOT20 ground truth; trackers
      of several classes, which fill the ninth column with -1);
    - 10: the same with three world coordinates, ignored (results, MOT15), class, visibility
      and a column to ignore (annotation tools), or a class and two times -1 (trackers of several
      classes).

    What is often mistaken for such a file is refused by name (see `formats.other_format`).

    Where there is a visibility the file is an annotation whose seventh column is a flag: boxes
    with 0 there are not to be considered, and are left out (counted in `ignored`).

    Args:
        path: the file, UTF-8.
        first_frame: number that the file gives to the first frame of the video, 0 or 1.
        boxes: what columns 3 to 6 are: "size" (left, top, width, height), "corners" (left, top,
            right, bottom) or "centre" (of the box, then width, height). None is "size", but a file
            that looks like corners is refused.

    Raises:
        UserError: with file and line: fields that are not finite numbers, frames and ids that are
            not whole numbers of 64 bits (signed), a wrong or changing
            number of columns, frames before `first_frame`, negative ids (detections), an id
            twice in one frame; an empty or missing file.

    Source: https://motchallenge.net/instructions/
    """
    path = Path(path)
    table, keys, lines = _read_numbers(path)
    _check_frames_and_ids(path, keys, lines, first_frame)
    _check_duplicates(path, keys, lines)
    sizes = _sizes(path, table[:, 2:6], boxes)
    if _is_visdrone(table):
        raise UserError(
            f"{path}: is in VisDrone's format, whose columns 9 and 10 are truncation and "
            "occlusion, not a visibility; cut them off, and choose people with --classes 1,2"
        )
    classes, visibilities = _classes_and_visibilities(table)
    confidences = table[:, 6] if table.shape[1] > 6 else np.full(len(table), np.nan)
    ignored = (confidences == 0) & np.isfinite(visibilities)
    if ignored.all():
        raise UserError(f"{path}: all {len(table)} boxes are flagged as not to be considered")
    order = np.lexsort((keys[:, 0], keys[:, 1]))
    order = order[~ignored[order]]
    return TrackFile(
        path=path,
        first_frame=first_frame,
        ids=keys[order, 1],
        frames=keys[order, 0] - first_frame,
        boxes=sizes[order],
        confidences=confidences[order],
        classes=classes[order],
        visibilities=visibilities[order],
        ignored=int(ignored.sum()),
    )
