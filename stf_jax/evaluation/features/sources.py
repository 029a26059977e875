"""Where tracklets come from: the tracker's own id, and its pieces joined again."""

import csv
import io
from dataclasses import replace

import numpy as np
from jaxtyping import Int64

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
    path = table.image_dir.parent / TRACKLETS_FILE
    if not path.is_file():
        return None
    columns = ("source_id", "first_frame", "last_frame")
    try:
        lines = csv.DictReader(io.StringIO(read_text(path), newline=""))
        rows = {row["name_prefix"]: [int(row[name]) for name in columns] for row in lines}
        firsts = table.names[table.offsets[:-1]].tolist()
        found = [rows.get(name.decode().rpartition("_")[0], [-1, -1, -1]) for name in firsts]
        return np.array(found, np.int64).reshape(-1, 3)
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
