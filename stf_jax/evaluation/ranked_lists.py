"""The beginning of each query's ranked list, to look at, and statistics of all its entries."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from stf_jax.evaluation.match_ranks import JUNK_ID
from stf_jax.evaluation.ranking import rank_gallery

_BLOCK_ELEMENTS = 1 << 22
_BINS = 60


@dataclass(frozen=True, eq=False)
class RankedLists:
    """The nearest K gallery entries of each of Q queries, nearest first; -1 beyond a list's end."""

    entries: Int[np.ndarray, "q k"]  # gallery index
    distances: Float[np.ndarray, "q k"]  # infinite beyond the end


@dataclass(frozen=True)
class CameraPair:
    """Scores of the queries of one camera in the gallery of another; None without valid query."""

    query_camera: int
    gallery_camera: int
    valid_queries: int
    gallery_size: int
    mean_ap: float | None
    rank_1: float | None


@dataclass(frozen=True, eq=False)
class DistanceHistogram:
    """Counts of matching and other pairs of query and entry by distance, in bins of one width."""

    edges: Float[np.ndarray, " b_plus_1"]
    matches: Int[np.ndarray, " b"]
    others: Int[np.ndarray, " b"]


def left_out(
    query_ids: np.ndarray,
    query_cameras: np.ndarray,
    gallery_ids: np.ndarray,
    gallery_cameras: np.ndarray,
    *,
    separate_camera_set: bool = False,
) -> Bool[np.ndarray, "q g"]:
    """Entries that a query's list must not hold: its identity in its camera, and junk.

    With `separate_camera_set` its camera whole. Same rule as `rank_gallery`.
    """
    same = query_cameras[:, None] == gallery_cameras[None, :]
    if not separate_camera_set:
        same &= query_ids[:, None] == gallery_ids[None, :]
    return same | (gallery_ids == JUNK_ID)[None, :]


def nearest(
    distances: Float[np.ndarray, "q g"],
    count: int,
    *,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_cameras: np.ndarray,
    gallery_cameras: np.ndarray,
    separate_camera_set: bool = False,
) -> RankedLists:
    """The nearest `count` entries of each list, equal distances by gallery index.

    What is left out is what `rank_gallery` leaves out: see `left_out`.
    """
    lists = empty_lists(len(distances), count)
    for row in range(len(distances)):
        one = slice(row, row + 1)
        out = left_out(
            query_ids[one],
            query_cameras[one],
            gallery_ids,
            gallery_cameras,
            separate_camera_set=separate_camera_set,
        )
        fill_list(lists, row, distances[row], ~out[0])
    return lists


def empty_lists(num_queries: int, count: int) -> RankedLists:
    """Lists without any entry, for `fill_list`."""
    return RankedLists(
        np.full((num_queries, count), -1, np.int64), np.full((num_queries, count), np.inf)
    )


def fill_list(
    lists: RankedLists,
    row: int,
    distances: Float[np.ndarray, " g"],
    allowed: Bool[np.ndarray, " g"],
) -> None:
    """Set list `row` to the nearest entries that are `allowed`; equal distances by index."""
    count = lists.entries.shape[1]
    kept = np.flatnonzero(allowed)
    values = distances[kept]
    if len(kept) > count:
        near = values <= np.partition(values, count - 1)[count - 1]
        kept, values = kept[near], values[near]
    order = np.argsort(values, kind="stable")[:count]
    lists.entries[row, : len(order)] = kept[order]
    lists.distances[row, : len(order)] = values[order]


def camera_pairs(
    distances: Float[np.ndarray, "q g"],
    *,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_cameras: np.ndarray,
    gallery_cameras: np.ndarray,
    protocol: str,
) -> list[CameraPair]:
    """mAP and rank-1 for every query camera against every gallery camera, each alone."""
    pairs = []
    for query_camera in np.unique(query_cameras):
        rows = np.flatnonzero(query_cameras == query_camera)
        for gallery_camera in np.unique(gallery_cameras):
            columns = np.flatnonzero(gallery_cameras == gallery_camera)
            ranking = rank_gallery(
                distances[np.ix_(rows, columns)],
                query_ids=query_ids[rows],
                gallery_ids=gallery_ids[columns],
                query_cameras=query_cameras[rows],
                gallery_cameras=gallery_cameras[columns],
                protocol=protocol,
                max_rank=1,
            )
            valid = ranking.valid_queries > 0
            pairs.append(
                CameraPair(
                    int(query_camera),
                    int(gallery_camera),
                    ranking.valid_queries,
                    ranking.gallery_size,
                    ranking.mean_ap if valid else None,
                    float(ranking.cmc[0]) if valid else None,
                )
            )
    return pairs


def distance_histogram(
    distances: Float[np.ndarray, "q g"],
    *,
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_cameras: np.ndarray,
    gallery_cameras: np.ndarray,
    bins: int = _BINS,
) -> DistanceHistogram:
    """Distances of all pairs that a list may hold, those of one identity separate from the rest."""
    finite = distances[np.isfinite(distances)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    counts = np.zeros((2, bins), np.int64)
    step = max(1, _BLOCK_ELEMENTS // max(1, distances.shape[1]))
    for start in range(0, len(distances), step):
        rows = slice(start, start + step)
        kept = ~left_out(query_ids[rows], query_cameras[rows], gallery_ids, gallery_cameras)
        same = query_ids[rows, None] == gallery_ids[None, :]
        for kind, chosen in enumerate((kept & same, kept & ~same)):
            counts[kind] += np.histogram(distances[rows][chosen], edges)[0]
    return DistanceHistogram(edges, counts[0], counts[1])
