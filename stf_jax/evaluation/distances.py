"""Distances between two sets of features, in blocks of rows."""

import numpy as np
from jaxtyping import Float

from stf_jax.evaluation.arguments import (
    ArgumentError,
    checked_choice,
    checked_matrix,
    require_no_nan,
)

METRICS = ("euclidean", "cosine")

_BLOCK_ROWS = 512  # a multiple of what a matrix product needs to run at full speed


def pairwise_distances(
    query_features,
    gallery_features,
    *,
    metric: str = "euclidean",
    dtype: type[np.floating] = np.float32,
) -> Float[np.ndarray, "q g"]:
    """All distances, by one matrix product; memory beyond the result is a few blocks of rows.

    Args:
        query_features: [Q, D] floats; features of another dtype than `dtype` are converted once.
        gallery_features: [G, D] floats.
        metric: "euclidean", in [0, inf), or "cosine", 1 - cosine, in [0, 2]; a zero vector is at
            cosine distance 1 from everything.
        dtype: np.float32 or np.float64, of the computation and the result. In float32 a Euclidean
            distance below about 3e-4 of the features' length is rounding.

    Returns:
        [Q, G] of `dtype`.

    Raises:
        ArgumentError: (a ValueError) naming the argument with a wrong shape, dtype or value.
    """
    checked_choice("metric", metric, METRICS)
    if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ArgumentError(f"dtype: {np.dtype(dtype)}; expected float32 or float64")
    query = checked_matrix("query_features", query_features).astype(dtype, copy=False)
    gallery = checked_matrix("gallery_features", gallery_features, (None, query.shape[1]))
    gallery = gallery.astype(dtype, copy=False)
    query_squares = squared_norms("query_features", query).astype(dtype)
    gallery_squares = squared_norms("gallery_features", gallery).astype(dtype)
    result = np.empty((len(query), len(gallery)), dtype)
    for first in range(0, len(query), _BLOCK_ROWS):
        rows = slice(first, first + _BLOCK_ROWS)
        block = result[rows]
        if metric == "euclidean":
            squared_euclidean(query[rows], gallery, query_squares[rows], gallery_squares, out=block)
            np.sqrt(block, out=block)
        else:
            np.matmul(query[rows], gallery.T, out=block)
            smallest = np.finfo(dtype).tiny
            block /= np.maximum(np.sqrt(query_squares[rows]), smallest)[:, None]
            block /= np.maximum(np.sqrt(gallery_squares), smallest)[None, :]
            np.subtract(1, block, out=block)
            np.clip(block, 0, 2, out=block)
    return result


def squared_norms(name: str, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Squared lengths [n] float64. Raises ArgumentError naming a row that is not finite."""
    squares = np.empty(len(features), np.float64)
    for first in range(0, len(features), _BLOCK_ROWS):
        block = features[first : first + _BLOCK_ROWS].astype(np.float64)
        squares[first : first + len(block)] = np.einsum("nd,nd->n", block, block)
        if not np.isfinite(squares[first : first + len(block)]).all():
            require_no_nan(name, block, first)
            row = first + int(np.argmin(np.isfinite(squares[first : first + len(block)])))
            raise ArgumentError(f"{name}: infinite values in row {row}; expected numbers")
    return squares


def squared_euclidean(
    left: Float[np.ndarray, "n d"],
    right: Float[np.ndarray, "m d"],
    left_squares: Float[np.ndarray, " n"],
    right_squares: Float[np.ndarray, " m"],
    *,
    out: Float[np.ndarray, "n m"],
) -> None:
    """Fill `out` with |left|^2 + |right|^2 - 2 left.right, at least 0, from squared lengths."""
    np.matmul(left, right.T, out=out)
    out *= -2
    out += left_squares[:, None]
    out += right_squares[None, :]
    np.maximum(out, 0, out=out)
