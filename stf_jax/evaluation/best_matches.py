"""The K nearest gallery entries of each query, by blocks: never all distances at once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from stf_jax.cores import usable_cores
from stf_jax.evaluation.centring import CameraMeans, less_means
from stf_jax.evaluation.distances import pairwise_distances, squared_norms
from stf_jax.evaluation.neighbours import merge_nearest, uses_accelerator
from stf_jax.evaluation.ranked_lists import RankedLists

_QUERIES = 2048  # at a time
_TILE = 1 << 23  # distances at a time: 32 MB
_DEVICE_TILE = 1 << 27
_MERGED = 256  # rows merged at a time by a thread


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a query's list may hold: gallery tracklets with a feature, without those named here."""

    query_cameras: Int[np.ndarray, " q"]
    gallery_cameras: Int[np.ndarray, " g"]
    same_camera: bool  # those of its own camera, too
    # Pairs of a query and an entry that are one tracklet, by ascending entry.
    own_query: Int[np.ndarray, " p"]
    own_entry: Int[np.ndarray, " p"]


def best_matches(
    query: Float[np.ndarray, "q d"],
    gallery: Float[np.ndarray, "g d"],
    count: int,
    candidates: Candidates,
    *,
    metric: str = "euclidean",
    means: CameraMeans | None = None,
    accelerator: bool | None = None,
) -> RankedLists:
    """The nearest `count` candidates of each query, equal distances by gallery row.

    Rows that are zero (no image could be read) are in no list and have an empty one. Distances are
    of float32 and as `pairwise_distances` computes them; memory beyond the features is a few tiles.

    Args:
        query: [Q, D] floats.
        gallery: [G, D] floats.
        count: entries of a list, at most G.
        candidates: what the lists may hold.
        metric: "euclidean" or "cosine".
        means: taken off each camera's features first (`centring.less_means`), block by block.
        accelerator: compute through JAX on its default device; None: if that is no CPU.

    Raises:
        ArgumentError: a feature is not finite.
        UserError: what `less_means` cannot take off.
    """
    has_query = squared_norms("query_features", query) > 0
    has_entry = squared_norms("gallery_features", gallery) > 0
    count = min(count, len(gallery))
    entries = np.full((len(query), count), -1, np.int64)
    distances = np.full((len(query), count), np.inf, np.float32)
    device = uses_accelerator() if accelerator is None else accelerator
    if means is not None:
        query = less_means(means, query, candidates.query_cameras)
    for first in range(0, len(query) if count else 0, _QUERIES):
        rows = slice(first, min(first + _QUERIES, len(query)))
        block = query[rows], candidates.query_cameras[rows], has_query[rows]
        width = max(count, (_DEVICE_TILE if device else _TILE) // (rows.stop - rows.start))
        width = min(width, len(gallery))
        tiles = (
            (
                start,
                _tile_features(gallery, start, width, candidates, means),
                _forbidden(candidates, has_entry, block, start, width, rows),
            )
            for start in range(0, len(gallery), width)
        )
        if device:
            from stf_jax.evaluation.best_matches_jax import nearest_on_device as find
        else:
            find = _nearest
        distances[rows], entries[rows] = find(block[0], tiles, count, width, metric)
    entries[np.isinf(distances)] = -1
    return RankedLists(entries, distances.astype(np.float64))


def _tile_features(
    gallery: np.ndarray, start: int, width: int, candidates: Candidates, means: CameraMeans | None
) -> np.ndarray:
    part = slice(start, start + width)
    if means is None:
        return gallery[part]
    return less_means(means, gallery[part], candidates.gallery_cameras[part])


def _forbidden(
    candidates: Candidates,
    has_entry: Bool[np.ndarray, " g"],
    block: tuple[np.ndarray, np.ndarray, np.ndarray],
    start: int,
    width: int,
    rows: slice,
) -> Bool[np.ndarray, "q w"]:
    """What the lists of a block of queries must not hold of the entries from `start` on."""
    _, cameras, seen = block
    part = slice(start, start + width)
    out = ~has_entry[part][None, :] | ~seen[:, None]
    if not candidates.same_camera:
        out |= cameras[:, None] == candidates.gallery_cameras[None, part]
    low, high = np.searchsorted(candidates.own_entry, [start, start + width])
    queries, entries = candidates.own_query[low:high], candidates.own_entry[low:high]
    here = (queries >= rows.start) & (queries < rows.stop)
    out[queries[here] - rows.start, entries[here] - start] = True
    return out


def _nearest(
    query: np.ndarray, tiles, count: int, width: int, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Distances [q, count] and gallery rows of the nearest in `tiles`."""
    near = np.full((len(query), count), np.inf, np.float32)
    where = np.zeros((len(query), count), np.int64)
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start, features, out in tiles:
            tile = pairwise_distances(query, features, metric=metric)

            def merge(first: int, start=start, tile=tile, out=out) -> None:
                part = slice(first, first + _MERGED)
                np.putmask(tile[part], out[part], np.inf)
                near[part], where[part] = merge_nearest(near[part], where[part], tile[part], start)

            for _ in pool.map(merge, range(0, len(query), _MERGED)):
                pass
    return near, where
