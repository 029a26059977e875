"""Batch normalisation whose statistics see real rows only.

Why not `flax.linen.BatchNorm`: with a mask and an axis name it averages per-device means, which is
wrong as soon as devices hold different numbers of real frames; and its running variance is biased
where torch's is not. Both matter here, so the statistics are ours; the formula is the usual one
(Ioffe and Szegedy, 2015).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def masked_moments(
    x: Float[Array, "n ... c"], mask: Bool[Array, " n"] | None, axis_name: str | None = None
) -> tuple[Float[Array, " c"], Float[Array, " c"], Float[Array, ""]]:
    """Mean, biased variance and count of the rows that `mask` keeps, per channel.

    One pass over `x`: sums are taken about a value of the data itself, so that a mean far larger
    than the deviation costs no precision. With `axis_name`, devices are combined by their counts
    (Chan et al., 1979).
    """
    c = x.shape[-1]
    rows = x.reshape(x.shape[0], -1, c)
    # A real row's value: padding may hold anything, also nothing like the data.
    shift = rows[0, 0] if mask is None else jnp.where(mask.any(), rows[jnp.argmax(mask), 0], 0)
    shift = jax.lax.stop_gradient(shift)
    centred = rows - shift[None, None, :]
    if mask is None:
        count = jnp.asarray(rows.shape[0] * rows.shape[1], x.dtype)
    else:
        centred = jnp.where(mask[:, None, None], centred, 0)
        count = mask.sum().astype(x.dtype) * rows.shape[1]
    divisor = jnp.maximum(count, 1)
    mean = centred.sum((0, 1)) / divisor
    var = jnp.maximum((centred * centred).sum((0, 1)) / divisor - mean * mean, 0)
    mean = mean + shift
    if axis_name is not None:
        total = jax.lax.psum(count, axis_name)
        share = count / jnp.maximum(total, 1)
        global_mean = jax.lax.psum(share * mean, axis_name)
        var = jax.lax.psum(share * (var + (mean - global_mean) ** 2), axis_name)
        mean, count = global_mean, total
    return mean, var, count


class BatchNorm(nn.Module):
    """Normalises the last axis of `x` [n, ..., c].

    In training by the moments of the rows that `mask` [n] keeps, and the running moments move by
    1 - `momentum` towards them, the variance unbiased as in torch; else by the running moments.
    A training call without any real row leaves the running moments alone. Statistics are in
    float32 or wider; the result has `dtype`.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: float = 1.0
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "n ... c"], mask: Bool[Array, " n"] | None, *, train: bool
    ) -> Float[Array, "n ... c"]:
        """Return the normalised `x`; updates collection `batch_stats` when `train`."""
        c = x.shape[-1]
        wide = jnp.promote_types(self.dtype, jnp.float32)
        scale = self.param(
            "scale", nn.initializers.constant(self.scale_init), (c,), self.param_dtype
        )
        bias = self.param("bias", nn.initializers.zeros, (c,), self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (c,), self.param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, (c,), self.param_dtype)
        if train:
            axis_name = None if self.is_initializing() else self.axis_name
            mean, var, count = masked_moments(x.astype(wide), mask, axis_name)
            if not self.is_initializing():
                unbiased = var * (count / jnp.maximum(count - 1, 1))
                rate = jnp.where(count > 0, 1 - self.momentum, 0.0).astype(wide)
                for running, value in ((running_mean, mean), (running_var, unbiased)):
                    old = running.value.astype(wide)
                    running.value = (old + rate * (value - old)).astype(self.param_dtype)
        else:
            mean, var = running_mean.value.astype(wide), running_var.value.astype(wide)
        factor = scale.astype(wide) * jax.lax.rsqrt(var + self.epsilon)
        lead = (None,) * (x.ndim - 1)
        # Centred first: folding the mean into the offset would cancel digits where it is large.
        y = (x.astype(wide) - mean[lead]) * factor[lead] + bias.astype(wide)[lead]
        return y.astype(self.dtype)
