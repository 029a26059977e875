"""k-reciprocal re-ranking: a gallery entry is near where its neighbourhood is the query's.

Zhong, Zheng, Cao, Li, "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017.
Neighbourhoods are sparse matrices over all N = Q + G rows, queries first.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from jaxtyping import Float32, Float64, Int
from scipy import sparse

from stf_jax.evaluation.arguments import ArgumentError, checked_count, checked_matrix
from stf_jax.evaluation.neighbours import (
    Neighbours,
    neighbours_of_distances,
    neighbours_of_features,
    squares_of_pairs,
    uses_accelerator,
    working_bytes,
)

_TERMS = 1 << 21  # of the Jaccard sums at a time
_SUM_ROWS = 256
_TINY = np.finfo(np.float32).tiny
_LONGER = 3  # neighbour lists hold this many times k1 + 1, which most expanded ones are among

PairSquares = Callable[[Int[np.ndarray, " n"], Int[np.ndarray, " n"]], Float32[np.ndarray, " n"]]
"""Squared distances of pairs of rows in 0..N-1."""

_log = logging.getLogger(__name__)


def rerank(
    query_gallery,
    query_query,
    gallery_gallery,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> Float32[np.ndarray, "q g"]:
    """Re-ranked distances of queries to the gallery, from all distances.

    Args:
        query_gallery: [Q, G] float32 or float64 Euclidean distances, at least one of each.
        query_query, gallery_gallery: [Q, Q] and [G, G], symmetric.
        k1: size of the reciprocal neighbourhood (the paper's k1).
        k2: neighbours whose encodings are averaged (the paper's k2); 1 is none but the row itself.
        lambda_value: share in [0, 1] of the distance given, scaled by the row's largest square; the
            rest is the Jaccard distance of the neighbourhoods.

    Returns:
        [Q, G] float32 in [0, 1].

    Raises:
        ArgumentError: (a ValueError) naming the argument with a wrong shape, dtype or value.
    """
    k1, k2, lambda_value = _checked_parameters(k1, k2, lambda_value)
    query_gallery = _finite("query_gallery", query_gallery)
    num_queries, num_gallery = query_gallery.shape
    if not query_gallery.size:
        raise ArgumentError(f"query_gallery: shape {query_gallery.shape}; expected some of each")
    query_query = _finite("query_query", query_query, (num_queries, num_queries))
    gallery_gallery = _finite("gallery_gallery", gallery_gallery, (num_gallery, num_gallery))

    def pair_squares(rows, columns):
        # Row i of the neighbour lists was read from column i, so pairs are read turned, too.
        squares = np.empty(len(rows), np.float32)
        of_query, to_query = rows < num_queries, columns < num_queries
        rows, columns = rows - num_queries * ~of_query, columns - num_queries * ~to_query
        for mine, distances, i, j in (
            (of_query & to_query, query_query, columns, rows),
            (of_query & ~to_query, query_gallery, rows, columns),
            (~of_query & to_query, query_gallery, columns, rows),
            (~of_query & ~to_query, gallery_gallery, columns, rows),
        ):
            squares[mine] = np.square(distances[i[mine], j[mine]])
        return squares

    _say_memory(num_queries, num_gallery, 0, k1, k2)
    length = _list_length(k1, k2)
    found = neighbours_of_distances(query_gallery, query_query, gallery_gallery, length)
    return _rerank(found, pair_squares, k1, k2, lambda_value)


def rerank_features(
    query_features,
    gallery_features,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    accelerator: bool | None = None,
) -> Float32[np.ndarray, "q g"]:
    """As `rerank`, from features and their Euclidean distances, which are never all in memory.

    The memory needed beyond the features is logged (INFO) before the work starts.

    Args:
        query_features: [Q, D] floats, at least one row; computed in float32.
        gallery_features: [G, D] floats, at least one row.
        k1, k2, lambda_value: see `rerank`.
        accelerator: find neighbours through JAX on its default device; None: if that is no CPU.

    Returns:
        [Q, G] float32 in [0, 1].

    Raises:
        ArgumentError: (a ValueError) naming the argument with a wrong shape, dtype or value.
    """
    k1, k2, lambda_value = _checked_parameters(k1, k2, lambda_value)
    query = checked_matrix("query_features", query_features)
    gallery = checked_matrix("gallery_features", gallery_features, (None, query.shape[1]))
    for name, features in (("query_features", query), ("gallery_features", gallery)):
        if not len(features):
            raise ArgumentError(f"{name}: no rows; expected at least one")
    converted = [features for features in (query, gallery) if features.dtype != np.float32]
    _say_memory(len(query), len(gallery), 4 * sum(features.size for features in converted), k1, k2)
    query = query.astype(np.float32, copy=False)
    gallery = gallery.astype(np.float32, copy=False)
    find = neighbours_of_features
    if uses_accelerator() if accelerator is None else accelerator:
        from stf_jax.evaluation.neighbours_jax import neighbours_on_device as find
    found = find(query, gallery, _list_length(k1, k2))
    return _rerank(found, partial(squares_of_pairs, query, gallery), k1, k2, lambda_value)


def rerank_memory(num_queries: int, num_gallery: int, k1: int = 20, k2: int = 6) -> int:
    """Bytes that re-ranking takes at most beyond its arguments, its result included."""
    total = num_queries + num_gallery
    count = min(total, _list_length(k1, k2))
    # Mutual neighbourhoods are symmetric, so their sizes bound every product.
    expanded = total * min(total, (k1 + 1) * (round(k1 / 2) + 1))
    averaged = min(total * total, expanded * k2)
    return (
        4 * num_queries * num_gallery
        + working_bytes(total)
        + 48 * total * count  # lists, and their sorted keys
        + 40 * expanded  # pairs looked up, encodings
        + 20 * averaged  # averaged encodings by row and by column
        + 48 * _TERMS
        + 16 * _SUM_ROWS * num_gallery
    )


def _say_memory(num_queries: int, num_gallery: int, converted: int, k1: int, k2: int) -> None:
    needed = rerank_memory(num_queries, num_gallery, k1, k2) + converted
    text = "Re-ranking %d queries and %d gallery entries: at most %.2f GB beyond the input"
    _log.info(text, num_queries, num_gallery, needed / 1e9)


def _rerank(
    found: Neighbours, pair_squares: PairSquares, k1: int, k2: int, lambda_value: float
) -> Float32[np.ndarray, "q g"]:
    """The re-ranked distances, written over `found.query_gallery`."""
    near = _mutual(found.indices[:, : k1 + 1])
    close = _mutual(found.indices[:, : round(k1 / 2) + 1])
    encodings = _encode(found, _expand(near, close), pair_squares)
    if k2 > 1:
        nearest = found.indices[:, :k2]
        encodings = sparse.csr_array(_lists_matrix(nearest) @ encodings / nearest.shape[1])
    result = found.query_gallery
    num_queries = len(result)
    result *= (lambda_value / np.maximum(found.farthest[:num_queries], _TINY))[:, None]
    for rows, shared in _shared_weight(encodings, num_queries):
        # Encodings sum to 1: the union's weight is 2 - the intersection's.
        result[rows] += (1 - lambda_value) * (1 - shared / (2 - shared))
    return result


def _lists_matrix(indices: Int[np.ndarray, "n k"]) -> sparse.csr_array:
    """Row i holds a float32 one at each of indices[i], which are distinct: [N, N]."""
    total, count = indices.shape
    ones = np.ones(indices.size, np.float32)
    return sparse.csr_array(
        (ones, indices.ravel(), np.arange(0, indices.size + 1, count)), shape=(total, total)
    )


def _mutual(indices: Int[np.ndarray, "n k"]) -> sparse.csr_array:
    """Ones at (i, j) where i and j are in each other's list: the paper's R(p, k)."""
    lists = _lists_matrix(indices)
    return lists.multiply(lists.T).tocsr()


def _expand(near: sparse.csr_array, close: sparse.csr_array) -> sparse.csr_array:
    """The paper's R*: a neighbour's close ones join where over two thirds of them are near."""
    common = near.multiply(near @ close.T).tocoo()  # close ones of j that are near i, at (i, j)
    sizes = np.diff(close.indptr)
    joins = 3 * common.data > 2 * sizes[common.col]
    ones = np.ones(np.count_nonzero(joins), np.float32)
    joined = sparse.csr_array((ones, (common.row[joins], common.col[joins])), shape=near.shape)
    return (near + joined @ close).tocsr()


def _encode(
    found: Neighbours, members: sparse.csr_array, pair_squares: PairSquares
) -> sparse.csr_array:
    """Rows of weights exp(-squared distance / the row's largest) over its members, summing to 1."""
    total, count = found.indices.shape
    rows = np.repeat(np.arange(total), np.diff(members.indptr))
    columns = members.indices.astype(np.int64)
    keys = (np.arange(total)[:, None] * total + found.indices).ravel()
    order = np.argsort(keys)
    keys = keys[order]
    wanted = rows * total + columns
    at = np.minimum(np.searchsorted(keys, wanted), total * count - 1)
    squares = found.squares.ravel()[order[at]]
    unlisted = np.flatnonzero(keys[at] != wanted)
    squares[unlisted] = pair_squares(rows[unlisted], columns[unlisted])
    _log.debug("%d of %d expanded pairs were beyond the lists", len(unlisted), len(rows))
    weights = np.exp(-squares / np.maximum(found.farthest, _TINY)[rows])
    sums = np.bincount(rows, weights, total)
    weights = (weights / sums[rows]).astype(np.float32)
    return sparse.csr_array((weights, members.indices, members.indptr), shape=members.shape)


def _shared_weight(
    encodings: sparse.csr_array, num_queries: int
) -> Iterator[tuple[slice, Float64[np.ndarray, "n g"]]]:
    """Sums over the smaller weights of queries (a few rows at a time) and each gallery entry."""
    queries = encodings[:num_queries]
    gallery = encodings[num_queries:].tocsc()
    num_gallery = gallery.shape[0]
    sizes = np.diff(gallery.indptr).astype(np.int64)[queries.indices]
    terms_before = np.concatenate([[0], np.cumsum(sizes)])[queries.indptr]
    start = 0
    while start < num_queries:
        stop = int(np.searchsorted(terms_before, terms_before[start] + _TERMS, side="right")) - 1
        stop = min(max(stop, start + 1), start + _SUM_ROWS, num_queries)
        mine = slice(queries.indptr[start], queries.indptr[stop])
        size = sizes[mine]
        heads = gallery.indptr[queries.indices[mine]] - (np.cumsum(size) - size)
        at = np.repeat(heads, size) + np.arange(size.sum())
        row = np.repeat(np.arange(stop - start), np.diff(queries.indptr[start : stop + 1]))
        smaller = np.minimum(np.repeat(queries.data[mine], size), gallery.data[at])
        flat = np.repeat(row * num_gallery, size) + gallery.indices[at]
        shared = np.bincount(flat, smaller, (stop - start) * num_gallery)
        yield slice(start, stop), shared.reshape(stop - start, num_gallery)
        start = stop


def _list_length(k1: int, k2: int) -> int:
    return max(_LONGER * (k1 + 1), k2)


def _checked_parameters(k1, k2, lambda_value) -> tuple[int, int, float]:
    k1, k2 = checked_count("k1", k1), checked_count("k2", k2)
    if not 0 <= lambda_value <= 1:
        raise ArgumentError(f"lambda_value: {lambda_value!r}; expected a number in [0, 1]")
    return k1, k2, float(lambda_value)


def _finite(name: str, value, shape: tuple[int | None, int | None] = (None, None)) -> np.ndarray:
    distances = checked_matrix(name, value, shape)
    for start in range(0, len(distances), _SUM_ROWS):
        if not np.isfinite(distances[start : start + _SUM_ROWS]).all():
            raise ArgumentError(f"{name}: NaN or infinite distances; expected finite ones")
    return distances
