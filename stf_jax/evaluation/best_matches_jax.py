"""The nearest gallery entries of a block of queries through JAX, on its default device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float32, Int

from stf_jax.evaluation.distances import squared_norms


@functools.partial(jax.jit, static_argnames=("metric",), donate_argnums=(0, 1))
def merge_tile(
    near: Float32[Array, "q k"],
    where: Int[Array, "q k"],
    query: Float32[Array, "q d"],
    query_squares: Float32[Array, " q"],
    features: Float32[Array, "w d"],
    squares: Float32[Array, " w"],
    out: Bool[Array, "q w"],
    start: Int[Array, ""],
    *,
    metric: str,
) -> tuple[Float32[Array, "q k"], Int[Array, "q k"]]:
    """The lists with the entries `start`, `start` + 1 ... merged in, but for those `out`."""
    # Tensor cores' default keeps 10 bits of a float32, too few to order entries.
    products = jnp.matmul(query, features.T, precision=lax.Precision.HIGHEST)
    if metric == "euclidean":
        squared = query_squares[:, None] + squares[None, :] - 2 * products
        tile = jnp.sqrt(jnp.maximum(squared, 0))
    else:
        tiny = jnp.finfo(jnp.float32).tiny
        lengths = [jnp.maximum(jnp.sqrt(of), tiny) for of in (query_squares, squares)]
        tile = jnp.clip(1 - products / lengths[0][:, None] / lengths[1][None, :], 0, 2)
    both = jnp.concatenate([near, jnp.where(out, jnp.inf, tile)], axis=1)
    count = near.shape[1]
    nearest, at = lax.top_k(-both, count)  # the lower index first where equal
    old = jnp.take_along_axis(where, jnp.minimum(at, count - 1), axis=1)
    return -nearest, jnp.where(at < count, old, start + at - count)


def nearest_on_device(
    query: np.ndarray, tiles, count: int, width: int, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """As `best_matches._nearest`; tiles are of `width` entries but for the last."""
    near = jnp.full((len(query), count), jnp.inf, jnp.float32)
    where = jnp.zeros((len(query), count), jnp.int32)
    squares = jnp.asarray(squared_norms("query_features", query), jnp.float32)
    queries = jnp.asarray(query, jnp.float32)
    for start, features, out in tiles:
        missing = width - len(features)  # of the last: one shape, one program
        norms = squared_norms("gallery_features", features).astype(np.float32)
        features = np.asarray(features, np.float32)
        if missing:
            features = np.pad(features, ((0, missing), (0, 0)))
            norms = np.pad(norms, (0, missing))
            out = np.pad(out, ((0, 0), (0, missing)), constant_values=True)
        near, where = merge_tile(
            *(near, where, queries, squares, jnp.asarray(features), jnp.asarray(norms)),
            *(jnp.asarray(out), jnp.asarray(start)),
            metric=metric,
        )
    return np.asarray(near), np.asarray(where, np.int64)
