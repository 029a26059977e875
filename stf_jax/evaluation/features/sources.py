"""Where tracklets come from: the tracker's own id, and its pieces joined again."""

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.errors import UserError
from stf_jax.evaluation.features.feature_files import FeatureSet
from stf_jax.reading.limits import read_text

TRACKLETS_FILE = "tracklets.csv"  # of `prepare mot`, beside partitions.pkl


def read_sources(table: TrackletTable) -> Int64[np.ndarray, "n 3"] | None:
    """The tracker's id, first and last frame of each tracklet, as in its track file.

    None where the layout has no tracklets.csv; -1 for a tracklet that is not in it. Raises
    UserError for a file that `prepare mot` did not write.
    """
    columns = ("source_id", "first_frame", "last_frame")

    def numbers(row: dict[str, str]) -> list[int]:
        found = [int(row[name]) for name in columns]
        if not all(-(2**63) <= number < 2**63 for number in found):
            raise ValueError(f"{found}: too large")
        return found

    found = _columns(table, numbers)
    if found is None:
        return None
    return np.array([row or [-1, -1, -1] for row in found], np.int64).reshape(-1, 3)


def read_rates(table: TrackletTable) -> Float64[np.ndarray, " n"] | None:
    """Frames a second of the video of each tracklet; NaN where its layout does not have it.

    None where no tracklet has one: of layouts that `prepare mot` did not write, or wrote before.
    Raises UserError as `read_sources`.
    """
    found = _columns(table, lambda row: [float(row.get("frames_per_second") or "nan")])
    if found is None or not any(found):
        return None
    rates = np.array([row[0] if row else np.nan for row in found], np.float64)
    return None if np.isnan(rates).all() else rates


def _columns(
    table: TrackletTable, values: Callable[[dict[str, str]], list[Any]]
) -> list[list[Any] | None] | None:
    """`values` of each tracklet's row of the layout's tracklets.csv; None without that file."""
    path = table.image_dir.parent / TRACKLETS_FILE
    if not path.is_file():
        return None
    try:
        lines = csv.DictReader(io.StringIO(read_text(path), newline=""))
        rows = {row["name_prefix"]: values(row) for row in lines}
        firsts = table.names[table.offsets[:-1]].tolist()
        return [rows.get(name.decode().rpartition("_")[0]) for name in firsts]
    except (OSError, KeyError, OverflowError, TypeError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); expected what prepare mot wrote: prepare the "
            "layout again, or remove the file"
        ) from None


def join_pieces(features: FeatureSet) -> FeatureSet:
    """One tracklet for each track: those of one camera and one id of its tracker become one.

    `prepare mot` cuts a track where it has gaps or gets long. The feature is the mean of the
    pieces', weighted by their frames and of unit length again; the frames shown and their weights
    are those of the longest piece. Tracklets without an id of a tracker stay as they are.
    """
    if features.sources is None:
        return features
    known = features.sources[:, 0] >= 0
    tracks = np.stack([features.cameras, features.sources[:, 0]], axis=1)[known]
    if len(np.unique(tracks, axis=0)) == len(tracks):
        return features  # which may be large: no copy
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, (camera, source) in enumerate(
        zip(features.cameras.tolist(), features.sources[:, 0].tolist(), strict=True)
    ):
        groups.setdefault((camera, source) if source >= 0 else (camera, -1, row), []).append(row)
    pieces = [np.array(rows) for rows in groups.values()]
    longest = np.array([rows[features.num_frames[rows].argmax()] for rows in pieces], np.int64)
    joined = features.select(longest)
    values, titles = joined.features, joined.titles.tolist()
    sources, num_frames = features.sources[longest], joined.num_frames.copy()
    for at, rows in enumerate(pieces):
        if len(rows) == 1:
            continue
        num_frames[at] = features.num_frames[rows].sum()
        mean = features.num_frames[rows].astype(np.float32) @ features.features[rows]
        values[at] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        sources[at, 1:] = features.sources[rows, 1].min(), features.sources[rows, 2].max()
        source, first, last = sources[at].tolist()
        titles[at] = (
            f"camera {joined.cameras[at]}, id {source}, frames {first}-{last} ({len(rows)} pieces)"
        )
    return replace(
        joined, features=values, titles=np.array(titles), sources=sources, num_frames=num_frames
    )
