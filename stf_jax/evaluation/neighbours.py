"""Nearest neighbours among queries and gallery together, by tiles, never holding all distances.

Rows 0..Q-1 are the queries, rows Q..N-1 the gallery. All distances here are squared Euclidean
and float32. Equal distances are ordered by row.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int

from stf_jax.cores import usable_cores
from stf_jax.evaluation.distances import squared_euclidean, squared_norms

_TILE_ROWS = 2048
_MERGE_ROWS = 256
_PAIRS = 1024


@dataclass(frozen=True)
class Neighbours:
    """The K nearest of each of N rows, nearest first, and what re-ranking needs besides."""

    indices: Int[np.ndarray, "n k"]
    squares: Float32[np.ndarray, "n k"]
    farthest: Float32[np.ndarray, " n"]  # the row's largest squared distance
    query_gallery: Float32[np.ndarray, "q g"]  # squared distances


def neighbours_of_features(
    query: Float32[np.ndarray, "q d"], gallery: Float32[np.ndarray, "g d"], count: int
) -> Neighbours:
    """The `count` (at most N) nearest of each row, which is itself among them at distance 0.

    Every pair is computed once: a tile serves its rows and, transposed, its columns.

    Raises:
        ArgumentError: a feature is not finite.
    """
    found = nothing_found(len(query), len(gallery), count)
    blocks = []
    for name, features, before in (
        ("query_features", query, 0),
        ("gallery_features", gallery, len(query)),
    ):
        squares = squared_norms(name, features).astype(np.float32)
        for start in range(0, len(features), _TILE_ROWS):
            part = slice(start, min(start + _TILE_ROWS, len(features)))
            where = slice(before + part.start, before + part.stop)
            blocks.append((where, features[part], squares[part]))
    with ThreadPoolExecutor(usable_cores()) as pool:
        for i, (rows, left, left_squares) in enumerate(blocks):
            for columns, right, right_squares in blocks[i:]:
                tile = np.empty((len(left), len(right)), np.float32)
                squared_euclidean(left, right, left_squares, right_squares, out=tile)
                if rows == columns:
                    np.fill_diagonal(tile, 0)
                elif rows.start < len(query) <= columns.start:
                    entries = slice(columns.start - len(query), columns.stop - len(query))
                    found.query_gallery[rows, entries] = tile
                _merge(found, tile, rows, columns.start, pool)
                if rows != columns:
                    _merge(found, np.ascontiguousarray(tile.T), columns, rows.start, pool)
    return found


def neighbours_of_distances(
    query_gallery: Float[np.ndarray, "q g"],
    query_query: Float[np.ndarray, "q q"],
    gallery_gallery: Float[np.ndarray, "g g"],
    count: int,
) -> Neighbours:
    """As `neighbours_of_features`, of distances that are not squared yet, by columns."""
    num_queries, num_gallery = query_gallery.shape
    total = num_queries + num_gallery
    found = nothing_found(num_queries, num_gallery, count)
    step = max(1, _TILE_ROWS**2 // total)
    halves = (
        (0, num_queries, query_query, query_gallery.T),
        (num_queries, num_gallery, query_gallery, gallery_gallery),
    )
    with ThreadPoolExecutor(usable_cores()) as pool:
        for before, size, from_queries, from_gallery in halves:
            for start in range(0, size, step):
                part = slice(start, min(start + step, size))
                tile = np.empty((part.stop - start, total), np.float32)
                tile[:, :num_queries] = np.square(from_queries[:, part]).T
                tile[:, num_queries:] = np.square(from_gallery[:, part]).T
                if before == 0:
                    found.query_gallery[part] = tile[:, num_queries:]
                _merge(found, tile, slice(before + start, before + part.stop), 0, pool)
    return found


def working_bytes(total: int) -> int:
    """Bytes at most without lists and result: a tile, its transpose, and merging by threads."""
    return 4 * (3 * max(_TILE_ROWS**2, total) + usable_cores() * 6 * _MERGE_ROWS * _TILE_ROWS)


def squares_of_pairs(
    query: Float32[np.ndarray, "q d"],
    gallery: Float32[np.ndarray, "g d"],
    rows: Int[np.ndarray, " n"],
    columns: Int[np.ndarray, " n"],
) -> Float32[np.ndarray, " n"]:
    """Squared distances of single pairs of rows, a thousand at a time."""

    def gather(indices):
        features = np.empty((len(indices), query.shape[1]), np.float32)
        is_query = indices < len(query)
        features[is_query] = query[indices[is_query]]
        features[~is_query] = gallery[indices[~is_query] - len(query)]
        return features

    def squares(start):
        difference = gather(rows[start : start + _PAIRS])
        difference -= gather(columns[start : start + _PAIRS])
        return np.einsum("nd,nd->n", difference, difference)

    with ThreadPoolExecutor(usable_cores()) as pool:
        parts = list(pool.map(squares, range(0, len(rows), _PAIRS)))
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def nothing_found(num_queries: int, num_gallery: int, count: int) -> Neighbours:
    """Lists of `count` (at most N) at infinite distance, to be filled."""
    total = num_queries + num_gallery
    count = min(count, total)
    return Neighbours(
        indices=np.zeros((total, count), np.int64),
        squares=np.full((total, count), np.inf, np.float32),
        farthest=np.zeros(total, np.float32),
        query_gallery=np.empty((num_queries, num_gallery), np.float32),
    )


def _merge(
    found: Neighbours,
    tile: Float32[np.ndarray, "n m"],
    rows: slice,
    first_column: int,
    pool: ThreadPoolExecutor,
) -> None:
    """Put a tile's nearest into the lists of `rows`; the columns before it are already there."""

    def merge(start):
        part = slice(start, min(start + _MERGE_ROWS, len(tile)))
        where = slice(rows.start + start, rows.start + part.stop)
        np.maximum(found.farthest[where], tile[part].max(axis=1), out=found.farthest[where])
        found.squares[where], found.indices[where] = merge_nearest(
            found.squares[where], found.indices[where], tile[part], first_column
        )

    for _ in pool.map(merge, range(0, len(tile), _MERGE_ROWS)):
        pass


def uses_accelerator() -> bool:
    """Whether JAX's default device is another one than the CPU; imports JAX."""
    import jax

    return jax.default_backend() != "cpu"


def merge_nearest(
    squares: Float32[np.ndarray, "n k"],
    indices: Int[np.ndarray, "n k"],
    tile: Float32[np.ndarray, "n m"],
    first_column: int,
) -> tuple[Float32[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
    """The k smallest of lists and tile, in order. `first_column` columns went before.

    Infinite ones are as good as none: their indices mean nothing.
    """
    count, width = squares.shape[1], tile.shape[1]
    if first_column >= count and np.isfinite(squares[:, -1]).all():
        # On a tie with the list's last, the earlier column stays.
        passing = tile < squares[:, -1:]
    elif width > count:
        passing = tile <= np.partition(tile, count - 1, axis=1)[:, count - 1 : count]
    else:
        passing = np.ones(tile.shape, bool)
    rows, columns = np.divmod(np.flatnonzero(passing), width)
    sizes = np.bincount(rows, minlength=len(tile))
    within = count + np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    wide = count + int(sizes.max(initial=0))
    both = np.full((len(tile), wide), np.inf, np.float32)
    both[:, :count] = squares
    both[rows, within] = tile[rows, columns]
    from_where = np.zeros((len(tile), wide), np.int64)
    from_where[:, :count] = indices
    from_where[rows, within] = first_column + columns
    order = np.argsort(both, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(both, order, 1), np.take_along_axis(from_where, order, 1)
