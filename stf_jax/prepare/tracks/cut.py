"""Tracks of one camera -> tracklets: where they are cut, and which boxes become pictures."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from stf_jax.errors import UserError
from stf_jax.prepare.tracks.track_files import TrackFile


@dataclass(frozen=True)
class CutRules:
    """How tracks are cut. Lengths are in boxes before the stride, sizes in pixels."""

    max_gap: int = 10  # frames that may be missing within a tracklet
    max_length: int = 0  # boxes of a tracklet at most; 0: no limit
    stride: int = 1  # every n-th usable box becomes a picture
    min_length: int = 1  # pictures of a tracklet at least
    min_height: float = 1.0  # of the part of the box inside the picture
    min_width: float = 1.0
    min_confidence: float | None = None
    min_visibility: float | None = None
    min_inside: float = 0.5  # share of the box's area inside the picture
    interpolated_confidence: float | None = None  # marks boxes without a detection
    classes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class CameraCut:
    """The tracklets of one camera, by (id, time); crop k of tracklet i: offsets[i] <= k < [i+1]."""

    source_ids: Int[np.ndarray, " n"]
    first_frames: Int[np.ndarray, " n"]  # from 0; the first box, also where it gives no picture
    last_frames: Int[np.ndarray, " n"]
    num_boxes: Int[np.ndarray, " n"]
    offsets: Int[np.ndarray, " n+1"]
    frames: Int[np.ndarray, " f"]  # from 0
    crops: Int[np.ndarray, "f 4"]  # left, top, right, bottom; right and bottom exclusive
    dropped: dict[str, int]  # boxes that gave no picture, by reason; each box once


def clip_boxes(
    boxes: Float[np.ndarray, "n 4"], *, width: int, height: int
) -> tuple[Int[np.ndarray, "n 4"], Float[np.ndarray, " n"]]:
    """Rounds boxes to whole pixels inside a picture.

    Args:
        boxes: left, top, width, height in pixels, the picture's corner being (0, 0).
        width, height: of the picture, pixels.

    Returns:
        int64 [n, 4] left, top, right, bottom (exclusive), each edge rounded to the nearest pixel
        and clipped; and the share 0..1 of each box's area inside the picture (0 for boxes
        without area).
    """
    edges = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    limits = np.array([[width, height, width, height]], np.float64)
    inside = np.clip(edges, 0.0, limits)
    area = np.maximum(boxes[:, 2], 0.0) * np.maximum(boxes[:, 3], 0.0)
    visible = np.prod(np.maximum(inside[:, 2:] - inside[:, :2], 0.0), axis=1)
    share = np.divide(visible, area, out=np.zeros(len(boxes)), where=area > 0)
    return np.floor(inside + 0.5).astype(np.int64), np.minimum(share, 1.0)


def _select_classes(tracks: TrackFile, rules: CutRules) -> TrackFile:
    """The boxes of the wanted classes; several classes without a choice are refused."""
    found, counts = np.unique(tracks.classes, return_counts=True)
    listing = ", ".join(f"{c} ({n} boxes)" for c, n in zip(found, counts, strict=True))
    if rules.classes is None:
        if len(found) > 1:
            raise UserError(
                f"{tracks.path}: boxes of several classes, {listing}; say which are people, "
                f"such as --classes {found[np.argmax(counts)]}"
            )
        return tracks
    rows = np.isin(tracks.classes, rules.classes)
    if not rows.any():
        has = "has no class column" if found.max() < 0 else f"has classes {listing}"
        wanted = ",".join(map(str, rules.classes))
        raise UserError(f"{tracks.path}: {has}; none is in --classes {wanted}")
    columns = ("ids", "frames", "boxes", "confidences", "classes", "visibilities")
    return replace(tracks, **{name: getattr(tracks, name)[rows] for name in columns})


def _check_columns(tracks: TrackFile, rules: CutRules) -> None:
    """A filter on a column that the file lacks would pass or drop everything: refuse it."""
    if rules.min_confidence is not None:
        unknown = int(np.sum(np.isnan(tracks.confidences) | (tracks.confidences == -1)))
        if unknown:
            raise UserError(
                f"{tracks.path}: {unknown} of {len(tracks.ids)} boxes give no confidence; "
                "leave out --min-confidence"
            )
    if rules.interpolated_confidence is not None and np.isnan(tracks.confidences).any():
        raise UserError(
            f"{tracks.path}: has no confidence column; leave out --interpolated-confidence"
        )
    if rules.min_visibility is not None and np.isnan(tracks.visibilities).any():
        raise UserError(f"{tracks.path}: has no visibility column; leave out --min-visibility")


def _usable_boxes(
    tracks: TrackFile, rules: CutRules, width: int, height: int
) -> tuple[Int[np.ndarray, "n 4"], Bool[np.ndarray, " n"], dict[str, int]]:
    """Crops of all boxes, which of them may become pictures, and counts of the others."""
    crops, share = clip_boxes(tracks.boxes, width=width, height=height)
    if np.max(np.abs(tracks.boxes)) <= 2.0:
        raise UserError(
            f"{tracks.path}: no box reaches beyond 2 pixels; boxes must be in pixels, "
            "these look like shares of the picture"
        )
    outside = share < rules.min_inside
    if outside.sum() * 2 > len(outside):
        raise UserError(
            f"{tracks.path}: {outside.sum()} of {len(outside)} boxes are mostly outside the "
            f"{width}x{height} picture; is it another video's file, or does it hold corners "
            "(left, top, right, bottom) instead of left, top, width, height?"
        )
    sizes = crops[:, 2:] - crops[:, :2]
    small = (sizes < 1).any(axis=1)
    small |= (sizes[:, 0] < rules.min_width) | (sizes[:, 1] < rules.min_height)
    reasons = {"interpolated": np.zeros(len(small), bool)}
    if rules.interpolated_confidence is not None:
        reasons["interpolated"] = np.isclose(
            tracks.confidences, rules.interpolated_confidence, rtol=0.0, atol=1e-9
        )
    if rules.min_confidence is not None:
        reasons["low confidence"] = tracks.confidences < rules.min_confidence
    if rules.min_visibility is not None:
        reasons["low visibility"] = tracks.visibilities < rules.min_visibility
    reasons["outside the picture"] = outside
    reasons["too small"] = small
    usable = np.ones(len(small), bool)
    counts = {}
    for reason, rows in reasons.items():
        counts[reason] = int(np.sum(rows & usable))
        usable &= ~rows
    return crops, usable, counts


def _pieces(tracks: TrackFile, rules: CutRules) -> list[Int[np.ndarray, " rows"]]:
    """Rows of each tracklet: one id, no gap beyond max_gap, then equal parts of max_length."""
    cuts = (np.diff(tracks.ids) != 0) | (np.diff(tracks.frames) > rules.max_gap + 1)
    pieces = []
    for run in np.split(np.arange(len(tracks.ids)), np.flatnonzero(cuts) + 1):
        parts = -(-len(run) // rules.max_length) if rules.max_length else 1
        pieces.extend(np.array_split(run, parts))
    return pieces


def cut_tracklets(tracks: TrackFile, rules: CutRules, *, width: int, height: int) -> CameraCut:
    """Cuts the tracks of one camera into tracklets and says what to crop where.

    Boxes of other classes do not exist for the rest. A track is cut where more than `max_gap`
    frames are missing, and what is longer than `max_length` boxes into parts as equal as can be,
    the longer ones first. Only then boxes are filtered: an interpolated, doubtful, small or
    outside box gives no picture, but it shows that the person was followed, so it does not cut.
    Of the boxes left, every `stride`-th gives a picture, the first included.

    Args:
        tracks: boxes ordered by (id, frame), as from `read_tracks`.
        rules: limits and filters.
        width, height: of the video, pixels.

    Raises:
        UserError: a filter on a column the file lacks, several classes without a choice, boxes
            that do not fit the picture, no tracklet left.
    """
    people = _select_classes(tracks, rules)
    _check_columns(people, rules)
    crops, usable, counts = _usable_boxes(people, rules, width, height)
    dropped = {
        "ignored in the file": tracks.ignored,
        "other class": len(tracks.ids) - len(people.ids),
        **counts,
        "in a short tracklet": 0,
        "between strides": 0,
    }
    pieces, pictures = [], []
    for piece in _pieces(people, rules):
        candidates = piece[usable[piece]]
        chosen = candidates[:: rules.stride]
        if len(chosen) < max(rules.min_length, 1):
            dropped["in a short tracklet"] += len(candidates)
            continue
        dropped["between strides"] += len(candidates) - len(chosen)
        pieces.append(piece)
        pictures.append(chosen)
    if not pieces:
        listing = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
        raise UserError(f"{tracks.path}: no tracklet is left of it ({listing}); ease the filters")
    rows = np.concatenate(pictures)
    starts = np.array([piece[0] for piece in pieces])
    return CameraCut(
        source_ids=people.ids[starts],
        first_frames=people.frames[starts],
        last_frames=people.frames[[piece[-1] for piece in pieces]],
        num_boxes=np.array([len(piece) for piece in pieces]),
        offsets=np.cumsum([0] + [len(chosen) for chosen in pictures]),
        frames=people.frames[rows],
        crops=crops[rows],
        dropped=dropped,
    )
