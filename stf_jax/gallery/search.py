"""The nearest tracklets of a gallery: exact by blocks, or by an index whose recall is measured."""

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from stf_jax.errors import UserError, import_extra
from stf_jax.evaluation.distances import pairwise_distances
from stf_jax.evaluation.features.feature_files import FeatureSet
from stf_jax.evaluation.neighbours import merge_nearest
from stf_jax.gallery.rows import check_origin, tracklet_ids
from stf_jax.gallery.table import Gallery, reported

_ROWS = 8192  # of the gallery at a time
_MERGED = 256  # queries merged at a time
_MEASURED = 100  # queries that the recall of an index is measured on
_LEAST_INDEXED = 256
_LANCE_METRIC = {"euclidean": "l2", "cosine": "cosine"}


@dataclass(frozen=True, eq=False)
class Found:
    """The nearest K of a gallery for each of Q queries, nearest first.

    `rows` are LanceDB's row ids, -1 where there are fewer; `distances` infinite there.
    """

    rows: Int64[np.ndarray, "q k"]
    distances: Float[np.ndarray, "q k"]
    recall: float | None = None  # of an index: the share of the exact lists that it found


def search_gallery(
    gallery: Gallery,
    query: FeatureSet,
    *,
    top: int = 10,
    where: str | None = None,
    same_camera: bool = False,
    index: bool = False,
) -> Found:
    """The nearest `top` tracklets of the gallery for each of `query`.

    Lists hold tracklets of other cameras than the query's, with `same_camera` of its own, too,
    never the query itself. Exact unless `index` is set: every tracklet that `where` (SQL) keeps is
    read, some thousand at a time, and compared in float32; equal distances in the order in which
    they were added. With `index` LanceDB's inverted file is made where it lacks rows, and recall
    measured on up to 100 of the queries.

    Raises UserError for features of another origin, or too few tracklets for an index.
    """
    check_origin(gallery, query, "query")
    exact = _exact
    if not index:
        return exact(gallery, query, top, where, same_camera)
    build_index(gallery)
    found = _by_index(gallery, query, top, where, same_camera)
    sample = np.unique(np.linspace(0, query.num_tracklets - 1, _MEASURED).astype(np.int64))
    true = exact(gallery, query.select(sample), top, where, same_camera)
    pairs = zip(true.rows.tolist(), found.rows[sample].tolist(), strict=True)
    hits = sum(len((set(ours) & set(theirs)) - {-1}) for ours, theirs in pairs)
    recall = hits / max(1, int((true.rows >= 0).sum()))
    return Found(found.rows, found.distances, recall)


def build_index(gallery: Gallery) -> None:
    """Make the index of all rows, unless there is one that has them all."""
    table = gallery.table
    count = table.count_rows()
    if count < _LEAST_INDEXED:
        raise UserError(
            f"{gallery.where}: {count} tracklets; an index needs {_LEAST_INDEXED}: search without"
        )
    ours = [found for found in table.list_indices() if found.columns == ["feature"]]
    if ours and ours[0].num_unindexed_rows == 0:
        return
    lance = import_extra("lancedb.index", "gallery")
    metric = _LANCE_METRIC[gallery.origin.metric]
    parts = max(1, round(math.sqrt(count) / 2))
    with reported(gallery.where):
        table.create_index(
            "feature", config=lance.IvfFlat(distance_type=metric, num_partitions=parts)
        )


def entries(gallery: Gallery, rows: Int64[np.ndarray, " n"]) -> dict[int, dict[str, Any]]:
    """What the gallery says of these rows, by row id, without the feature."""
    wanted = sorted({int(row) for row in rows if row >= 0})
    if not wanted:
        return {}
    columns = [name for name in gallery.table.schema.names if name != "feature"]
    with reported(gallery.where):
        found = gallery.table.take_row_ids(wanted).select(columns).with_row_id().to_arrow()
    return {entry.pop("_rowid"): entry for entry in found.to_pylist()}


def _exact(
    gallery: Gallery, query: FeatureSet, top: int, where: str | None, same_camera: bool
) -> Found:
    features, own = query.features, tracklet_ids(query)
    near = np.full((len(features), top), np.inf, np.float32)
    places = np.zeros((len(features), top), np.int64)
    row_ids: list[np.ndarray] = []
    place_of = {value: row for row, value in enumerate(own)}
    start = 0
    for ids, block, cameras, rows in _blocks(gallery, where):
        tile = pairwise_distances(features, block, metric=gallery.origin.metric)
        if not same_camera:
            tile[query.cameras[:, None] == cameras[None, :]] = np.inf
        for column, value in enumerate(ids):
            if value in place_of:
                tile[place_of[value], column] = np.inf
        for first in range(0, len(features), _MERGED):
            part = slice(first, first + _MERGED)
            near[part], places[part] = merge_nearest(near[part], places[part], tile[part], start)
        row_ids.append(rows)
        start += len(rows)
    near[~features.any(axis=1)] = np.inf
    every = np.concatenate([*row_ids, np.zeros(1, np.int64)])
    found = np.where(np.isfinite(near), every[np.minimum(places, start)], -1)
    return Found(found, near.astype(np.float64))


def _blocks(gallery: Gallery, where: str | None):
    """Ids, features, cameras and row ids of the tracklets that `where` keeps, some at a time."""
    reader = gallery.table.search().select(["id", "feature", "camera"]).with_row_id(True)
    if where:
        reader = reader.where(where)
    with reported(gallery.where):
        for batch in reader.to_batches(batch_size=_ROWS):
            numbers = batch["feature"].flatten().to_numpy(zero_copy_only=False)
            yield (
                batch["id"].to_pylist(),
                numbers.reshape(len(batch), -1),
                batch["camera"].to_numpy(zero_copy_only=False),
                batch["_rowid"].to_numpy(zero_copy_only=False).astype(np.int64),
            )


def _by_index(
    gallery: Gallery, query: FeatureSet, top: int, where: str | None, same_camera: bool
) -> Found:
    rows = np.full((query.num_tracklets, top), -1, np.int64)
    distances = np.full((query.num_tracklets, top), np.inf)
    for place, own in enumerate(tracklet_ids(query)):
        if not query.features[place].any():
            continue
        conditions = [f"id != X'{own.hex()}'"]
        conditions += [] if same_camera else [f"camera != {int(query.cameras[place])}"]
        conditions += [f"({where})"] if where else []
        found = _asked(gallery, query.features[place], " AND ".join(conditions), top)
        rows[place, : len(found)] = found["_rowid"].to_numpy()
        near = found["_distance"].to_numpy()
        is_squared = gallery.origin.metric == "euclidean"
        distances[place, : len(found)] = np.sqrt(np.maximum(near, 0)) if is_squared else near
    return Found(rows, distances)


def _asked(gallery: Gallery, feature: Float32[np.ndarray, " d"], where: str, top: int) -> Any:
    search = gallery.table.search(feature, vector_column_name="feature")
    search = search.distance_type(_LANCE_METRIC[gallery.origin.metric])
    search = search.where(where, prefilter=True).limit(top)
    with reported(gallery.where):
        return search.select(["id", "_distance"]).with_row_id(True).to_arrow()


def condition(
    cameras: Sequence[int] | None,
    since: datetime.datetime | None = None,
    until: datetime.datetime | None = None,
) -> str | None:
    """SQL for tracklets of these cameras, seen at some moment from `since` to `until`.

    Times are in UTC, without a zone. Tracklets without times are in no span of time.
    """
    parts = [] if cameras is None else [f"camera IN ({', '.join(map(str, cameras))})"]
    parts += [] if since is None else [f"seen_to >= timestamp '{since}'"]
    parts += [] if until is None else [f"seen_from <= timestamp '{until}'"]
    return " AND ".join(parts) or None
