"""Reading MOT-challenge track files, in the dialects that trackers and annotation tools write."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from stf_jax.errors import UserError
from stf_jax.prepare.tracks.dialects import other_format

SHOWN_FINDINGS = 5


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
    try:
        return float(field)
    except ValueError:
        return math.nan


def _raise_findings(findings: list[str]) -> None:
    if findings:
        rest = len(findings) - SHOWN_FINDINGS
        more = [f"... and {rest} more findings of this kind"] if rest > 0 else []
        raise UserError("\n".join(findings[:SHOWN_FINDINGS] + more))


def _read_numbers(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The file as a table [n, columns] of finite float64, and the line number of each row."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected one file of tracks for the whole video")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such track file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: not a readable text file ({error}); expected UTF-8, which ASCII is, too"
        ) from None
    rows: list[list[float]] = []
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
                f"{len(rows[0])}; mend or remove the line (was the file cut off while written?)"
            )
        else:
            rows.append(values)
            numbers.append(number)
    _raise_findings(findings)
    if not rows:
        raise UserError(f"{path}: no tracks in it; expected a line for each box")
    return np.array(rows), np.array(numbers)


def _check_frames_and_ids(
    path: Path, table: np.ndarray, lines: np.ndarray, first_frame: int
) -> None:
    for column, what in ((0, "frame"), (1, "id")):
        odd = np.flatnonzero(table[:, column] != np.floor(table[:, column]))
        _raise_findings(
            [
                f"{path}:{lines[row]}: {what} {table[row, column]:g} is not a whole number"
                for row in odd
            ]
        )
    early = table[:, 0] < first_frame
    if early.any():
        row = int(np.flatnonzero(early)[0])
        zero_based = first_frame == 1 and table[:, 0].min() == 0
        hint = (
            "its frames count from 0: pass --first-frame 0"
            if zero_based
            else "frame numbers must not be negative"
        )
        raise UserError(
            f"{path}:{lines[row]}: frame {table[row, 0]:g}, {int(early.sum())} boxes before "
            f"frame {first_frame}, the number of the video's first frame; {hint}"
        )
    negative = table[:, 1] < 0
    if negative.any():
        row = int(np.flatnonzero(negative)[0])
        raise UserError(
            f"{path}:{lines[row]}: id {table[row, 1]:g}, {int(negative.sum())} of {len(table)} "
            "boxes have a negative id, which marks detections without a track; give the "
            "output of a tracker, not of a detector"
        )


def _check_duplicates(path: Path, table: np.ndarray, lines: np.ndarray) -> None:
    order = np.lexsort((lines, table[:, 0], table[:, 1]))
    same = np.all(table[order[1:], :2] == table[order[:-1], :2], axis=1)
    pairs = zip(order[:-1][same], order[1:][same], strict=True)
    _raise_findings(
        [
            f"{path}:{lines[second]}: id {table[second, 1]:g} is in frame {table[second, 0]:g} "
            f"twice, the other time in line {lines[first]}; keep one of them"
            for first, second in pairs
        ]
    )


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


def read_tracks(path: str | os.PathLike[str], *, first_frame: int = 1) -> TrackFile:
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

    What is often taken for such a file is refused by name (see `dialects.other_format`).

    Where there is a visibility the file is an annotation whose seventh column is a flag: boxes
    with 0 there are not to be considered, and are left out (counted in `ignored`).

    Args:
        path: the file, UTF-8.
        first_frame: number that the file gives to the first frame of the video, 0 or 1.

    Raises:
        UserError: with file and line: fields that are no finite numbers, a wrong or changing
            number of columns, frames before `first_frame`, negative ids (detections), an id
            twice in one frame; an empty or missing file.

    Source: https://motchallenge.net/instructions/
    """
    path = Path(path)
    table, lines = _read_numbers(path)
    _check_frames_and_ids(path, table, lines, first_frame)
    _check_duplicates(path, table, lines)
    classes, visibilities = _classes_and_visibilities(table)
    confidences = table[:, 6] if table.shape[1] > 6 else np.full(len(table), np.nan)
    ignored = (confidences == 0) & np.isfinite(visibilities)
    if ignored.all():
        raise UserError(f"{path}: all {len(table)} boxes are flagged as not to be considered")
    order = np.lexsort((table[:, 0], table[:, 1]))
    order = order[~ignored[order]]
    return TrackFile(
        path=path,
        first_frame=first_frame,
        ids=table[order, 1].astype(np.int64),
        frames=table[order, 0].astype(np.int64) - first_frame,
        boxes=table[order, 2:6],
        confidences=confidences[order],
        classes=classes[order],
        visibilities=visibilities[order],
        ignored=int(ignored.sum()),
    )
