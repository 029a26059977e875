"""Nearest neighbours through JAX, whole rows of distances at a time, on its default device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float32, Int

from stf_jax.evaluation.distances import squared_norms
from stf_jax.evaluation.neighbours import Neighbours

_ROW_BLOCK = 1024


@functools.partial(jax.jit, static_argnames=("size", "count"))
def neighbour_block(
    features: Float32[Array, "n d"],
    squares: Float32[Array, " n"],
    start: Int[Array, ""],
    *,
    size: int,
    count: int,
) -> tuple[Int[Array, "b k"], Float32[Array, "b k"], Float32[Array, " b"], Float32[Array, "b n"]]:
    """Nearest columns, their squares, the largest square and all squares of `size` rows."""
    rows = lax.dynamic_slice_in_dim(features, start, size)
    # Tensor cores' default keeps 10 bits of a float32, too few to order neighbours.
    products = jnp.matmul(rows, features.T, precision=lax.Precision.HIGHEST)
    row_squares = lax.dynamic_slice_in_dim(squares, start, size)
    block = jnp.maximum(row_squares[:, None] + squares[None, :] - 2 * products, 0)
    is_self = start + jnp.arange(size)[:, None] == jnp.arange(len(features))[None, :]
    block = jnp.where(is_self, 0, block)
    nearest, indices = lax.top_k(-block, count)  # the lower index first where equal
    return indices, -nearest, block.max(axis=1), block


def neighbours_on_device(
    query: Float32[np.ndarray, "q d"], gallery: Float32[np.ndarray, "g d"], count: int
) -> Neighbours:
    """As `neighbours.neighbours_of_features`; the features must fit on the device.

    Raises:
        ArgumentError: a feature is not finite.
    """
    total = len(query) + len(gallery)
    size, count = min(_ROW_BLOCK, total), min(count, total)
    squares = np.concatenate(
        [squared_norms("query_features", query), squared_norms("gallery_features", gallery)]
    )
    features = jnp.concatenate([jnp.asarray(query), jnp.asarray(gallery)])
    squares = jnp.asarray(squares, jnp.float32)
    found = Neighbours(
        indices=np.empty((total, count), np.int64),
        squares=np.empty((total, count), np.float32),
        farthest=np.empty(total, np.float32),
        query_gallery=np.empty((len(query), len(gallery)), np.float32),
    )
    for start in range(0, total, size):
        start = min(start, total - size)  # the last block overlaps, so that all have one shape
        rows = slice(start, start + size)
        indices, nearest, farthest, block = neighbour_block(
            features, squares, jnp.asarray(start), size=size, count=count
        )
        found.indices[rows], found.squares[rows] = np.asarray(indices), np.asarray(nearest)
        found.farthest[rows] = np.asarray(farthest)
        if start < len(query):
            stop = min(start + size, len(query))
            found.query_gallery[start:stop] = np.asarray(block[: stop - start, len(query) :])
    return found
