"""A file of features -> rows of a gallery, each tracklet once."""

import datetime
import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stf_jax.errors import UserError, import_extra
from stf_jax.evaluation.features.feature_files import UNKNOWN_ID, FeatureSet, tracklet_name
from stf_jax.evaluation.features.origin import check_same_origin
from stf_jax.evaluation.pages.film_strips import QUALITY, film_strip, strip_frames
from stf_jax.gallery.table import Gallery, reported

_ROWS = 2048  # written at a time: a version of the table
_STRIP = 4  # frames of a thumbnail


@dataclass(frozen=True)
class Recording:
    """When a recording began, and its frames a second: times of tracklets that have frames."""

    start: datetime.datetime  # UTC, without a zone
    frame_rate: float | None  # None: the features'


@dataclass(frozen=True)
class Added:
    """What `add_features` did with the tracklets of a file."""

    added: int
    there_before: int
    without_feature: int  # no image could be read


def add_features(
    gallery: Gallery, features: FeatureSet, source: str, recording: Recording | None = None
) -> Added:
    """Add the tracklets of `features` that the gallery does not have, some thousand at a time.

    Each part is a version of the table: what a killed call wrote is whole, and the same call again
    adds the rest. `source` is what the tracklets' column of that name says.

    Raises:
        UserError: features of another origin or length, or a `recording` of tracklets without
            frames of a tracker.
    """
    check_origin(gallery, features, source)
    if recording is not None and features.sources is None:
        raise UserError(
            f"{source}: has no first and last frames; expected features of tracks (VIDEO:TRACKS, "
            "or a layout of prepare mot) for a start and a frame rate"
        )
    ids = tracklet_ids(features)
    before = known_ids(gallery)
    seen = features.features.any(axis=1)
    new = {ids[row]: row for row in reversed(np.flatnonzero(seen)) if ids[row] not in before}
    rows = sorted(map(int, new.values()))
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        batch = _batch(gallery, features, part, ids, source, recording)
        with reported(gallery.where):
            gallery.table.add(batch)
    unread = int(np.count_nonzero(~seen))
    return Added(len(rows), features.num_tracklets - len(rows) - unread, unread)


def check_origin(gallery: Gallery, features: FeatureSet, name: str) -> None:
    """Raise UserError for features that cannot be compared with the gallery's."""
    check_same_origin(**{"gallery": gallery.origin, name: features.origin})
    found = features.features.shape[1]
    if found != gallery.dimensions:
        raise UserError(
            f"{name}: features of {found} numbers; expected {gallery.dimensions}, as the gallery's"
        )


def tracklet_ids(features: FeatureSet) -> list[bytes]:
    """16 bytes for each tracklet: equal for equal feature, camera, names of frames and source.

    Not where the images lie: a file that was moved, or written again, holds the same tracklets.
    """
    sources = features.sources if features.sources is not None else [()] * features.num_tracklets
    found = []
    for row, source in enumerate(sources):
        digest = hashlib.blake2b(digest_size=16)
        digest.update(np.ascontiguousarray(features.features[row]).tobytes())
        numbers = [features.cameras[row], features.tracks[row], *source]
        digest.update(np.array(numbers, np.int64).tobytes())
        names = features.names[features.offsets[row] : features.offsets[row + 1]]
        digest.update(b"\0".join(names.tolist()))
        found.append(digest.digest())
    return found


def known_ids(gallery: Gallery) -> set[bytes]:
    """The ids of all tracklets that the gallery has."""
    with reported(gallery.where):
        batches = gallery.table.search().select(["id"]).to_batches()
        return {value for batch in batches for value in batch["id"].to_pylist()}


def _batch(
    gallery: Gallery,
    features: FeatureSet,
    rows: list[int],
    ids: list[bytes],
    source: str,
    recording: Recording | None,
) -> Any:
    pa = import_extra("pyarrow", "gallery")
    names = gallery.table.schema
    flat = pa.array(features.features[rows].ravel(), pa.float32())
    tracked = np.full((len(rows), 3), -1) if features.sources is None else features.sources[rows]
    tracker, first, last = (
        [value if known else None for value, known in zip(column, tracked[:, 0] >= 0, strict=True)]
        for column in tracked.T.tolist()
    )
    people = features.person_ids[rows].tolist()
    rates = _rates(features, rows, recording)
    columns = {
        "id": [ids[row] for row in rows],
        "feature": pa.FixedSizeListArray.from_arrays(flat, gallery.dimensions),
        "camera": features.cameras[rows],
        "track": features.tracks[rows],
        "num_frames": features.num_frames[rows],
        "name": [tracklet_name(features, row) for row in rows],
        "source": [source] * len(rows),
        "image_dir": [features.image_dir] * len(rows),
        "person": [None if person == UNKNOWN_ID else person for person in people],
        "tracker_id": tracker,
        "first_frame": first,
        "last_frame": last,
        "frame_rate": rates,
        "seen_from": [_time(recording, *of) for of in zip(first, rates, strict=True)],
        "seen_to": [_time(recording, *of) for of in zip(last, rates, strict=True)],
        "thumbnail": [_thumbnail(features, row) for row in rows],
    }
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, names.field(name).type)
        for name, column in columns.items()
    ]
    return pa.Table.from_arrays(arrays, schema=names)


def _rates(
    features: FeatureSet, rows: list[int], recording: Recording | None
) -> list[float | None]:
    """Frames a second of each row: the recording's, or the features'; None where not known.

    Raises UserError for a tracklet whose frames are known, but not their rate, in a recording.
    """
    given = None if recording is None else recording.frame_rate
    known = (
        np.zeros(len(rows), bool) if features.sources is None else features.sources[rows, 0] >= 0
    )
    rates = np.full(len(rows), np.nan) if features.rates is None else features.rates[rows]
    rates = np.where(known, rates if given is None else given, np.nan)
    if recording is not None and (lacking := np.array(rows)[known & ~(rates > 0)]).size:
        raise UserError(
            f"{tracklet_name(features, int(lacking[0]))}: its frames a second are not known; "
            "expected --frame-rate with --start, or features of prepare mot --frame-rate"
        )
    return [rate if rate > 0 else None for rate in rates.tolist()]


def _time(
    recording: Recording | None, frame: int | None, rate: float | None
) -> datetime.datetime | None:
    """When a frame, counted from 1, was taken."""
    if recording is None or frame is None or rate is None:
        return None
    return recording.start + datetime.timedelta(seconds=(frame - 1) / rate)


def _thumbnail(features: FeatureSet, row: int) -> bytes | None:
    """A JPEG of a few frames; None where the images are not in files."""
    first = os.fsdecode(bytes(features.names[features.offsets[row]]))
    if not (Path(features.image_dir) / first).is_file():
        return None
    strip = film_strip(features, row, strip_frames(features, row, _STRIP))
    with io.BytesIO() as file:
        Image.fromarray(strip).save(file, format="JPEG", quality=QUALITY, optimize=True)
        return file.getvalue()
