"""The parts that turn frame maps into a tracklet's vector: embedding, attentions, fusion.

Jiang et al., "Rethinking Temporal Fusion for Video-based Person Re-identification on Semantic and
Time Aspect" (AAAI 2020); docs/method.md has the equations. Arrays are packed: M frames, each with
the tracklet it belongs to (0..B-1, B for padding) and its slot in time (0..T-1).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stf_jax.models.batch_norm import BatchNorm

RELATION_G = (768, 512, 512, 512)
RELATION_F = (128, 1)
RELATION_FRAMES = 4


def pool_stripes(
    maps: Float[Array, "n h w c"], num_stripes: int, how: str = "mean"
) -> Float[Array, "n s c"]:
    """The "mean" or "max" of `num_stripes` horizontal stripes of floor(h / num_stripes) rows."""
    n, h, w, c = maps.shape
    if h < num_stripes:
        raise ValueError(f"a map of {h} rows has no {num_stripes} stripes: use taller images")
    rows = h // num_stripes
    maps = maps[:, : rows * num_stripes].reshape(n, num_stripes, rows * w, c)
    if how == "max":
        return maps.max(2)
    wide = jnp.promote_types(maps.dtype, jnp.float32)
    return maps.mean(2, dtype=wide).astype(maps.dtype)


class Embedding(nn.Module):
    """`e_s = BatchNorm(W_s . avgpool(stripe s) + b_s)`, without a ReLU.

    The same weights serve single frames and fused tracklets.
    """

    num_stripes: int
    embed_dim: int
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, pooled: Float[Array, "n s c"], mask: Bool[Array, " n"] | None, *, train: bool
    ) -> Float[Array, "n s d"]:
        """Embed pooled stripes; rows outside `mask` enter no statistics."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        parts = []
        for s in range(self.num_stripes):
            e = nn.Dense(self.embed_dim, **types, name=f"conv_{s}")(pooled[:, s])
            bn = BatchNorm(axis_name=self.axis_name, **types, name=f"bn_{s}")
            parts.append(bn(e, mask, train=train))
        return jnp.stack(parts, 1)


class IntraAttention(nn.Module):
    """Scores of the intra-frame attention, `BatchNorm(w . x + c)`; see `attention_weights`.

    `initial_scale` is the scores' deviation at the start.
    """

    initial_scale: float = 1.0
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "m d"], mask: Bool[Array, " m"], *, train: bool
    ) -> Float[Array, " m"]:
        """Score each frame by its own descriptor."""
        wide = jnp.promote_types(self.dtype, jnp.float32)
        score = nn.Dense(1, dtype=self.dtype, param_dtype=self.param_dtype, name="conv")(x)
        bn = BatchNorm(
            axis_name=self.axis_name,
            dtype=wide,
            param_dtype=self.param_dtype,
            scale_init=self.initial_scale,
            name="bn",
        )
        return bn(score, mask, train=train)[:, 0]


class PairLinear(nn.Module):
    """`W [x_j ; x_i] + c` of all pairs as two terms: `W_left x_j` and `W_right x_i + c`."""

    features: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"]
    ) -> tuple[Float[Array, "b t h"], Float[Array, "b t h"]]:
        """Return the terms of j and of i; their outer sum over pairs is the linear layer."""
        d, h = x.shape[-1], self.features
        init = nn.initializers.lecun_normal()
        # One kernel, as in the equation: its upper half belongs to x_j.
        kernel = self.param("kernel", init, (2 * d, h), self.param_dtype).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (h,), self.param_dtype)
        x = x.astype(self.dtype)
        return x @ kernel[:d], x @ kernel[d:] + bias.astype(self.dtype)[None, None, :]


class RelationNetwork(nn.Module):
    """Scores of the inter-frame attention, `f(sum_j g([x_j ; x_i]))`; see `attention_weights`.

    The first layer of g is split into its halves for x_j and x_i, so that the large products are
    2T and not T^2, and no array of pairs is wider than g's first layer. `initial_scale` scales
    the scores at the start. `averaged` takes the mean over j, as large as the sum over four frames:
    scores that a softmax takes must not grow with the number of frames.
    """

    initial_scale: float = 1.0
    averaged: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], counted: Bool[Array, "b t"]
    ) -> Float[Array, "b t"]:
        """Score each frame i by its pairs with the frames j that are `counted`."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        wide = jnp.promote_types(self.dtype, jnp.float32)
        of_j, of_i = PairLinear(RELATION_G[0], **types, name="g_0")(x)
        pairs = nn.relu(of_i[:, :, None, :] + of_j[:, None, :, :])
        for k, width in enumerate(RELATION_G[1:], start=1):
            pairs = nn.relu(nn.Dense(width, **types, name=f"g_{k}")(pairs))
        pairs = jnp.where(counted[:, None, :, None], pairs.astype(wide), 0)
        related = pairs.sum(2)
        if self.averaged:
            related = related * (RELATION_FRAMES / jnp.maximum(counted.sum(1), 1))[:, None, None]
        r = nn.relu(nn.Dense(RELATION_F[0], **types, name="f_0")(related))
        init = nn.initializers.variance_scaling(self.initial_scale**2, "fan_in", "truncated_normal")
        r = nn.Dense(RELATION_F[1], **types, kernel_init=init, name="f_1")(r)[..., 0]
        return r.astype(wide)


class StageAttention(nn.Module):
    """Semantic attention: a softmax over the stages of one linear score of each stage's feature.

    The paper's figure has it, its code was never published. The scorer is shared by the stages and
    starts at zero, where it equals the mean: it can start from a mean-fused checkpoint.
    """

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, stage_features: Float[Array, "p b s d"]) -> Float[Array, "b p"]:
        """Weights of the stages, summing to 1 for each tracklet."""
        p, b = stage_features.shape[:2]
        wide = jnp.promote_types(self.dtype, jnp.float32)
        zeros = nn.initializers.zeros
        scorer = nn.Dense(
            1, dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=zeros, name="score"
        )
        scores = scorer(stage_features.reshape(p, b, -1))[..., 0]
        return nn.softmax(scores.T.astype(wide), -1)


class StageGate(nn.Module):
    """Weights of the stages: 1 of the last one, and of each earlier one a number learnt from 0.

    At the start the model is that of the last stage alone, so that it can go on from its weights
    (as ReZero: Bachlechner et al., "ReZero is All You Need: Fast Convergence at Large Depth", UAI
    2021).
    """

    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, num_stages: int) -> Float[Array, " p"]:
        """Weights of `num_stages` stages, the same for every tracklet."""
        if num_stages == 1:  # a parameter without numbers is none that a checkpoint can hold
            return jnp.ones(1, self.param_dtype)
        zeros = nn.initializers.zeros
        gate = self.param("scale", zeros, (num_stages - 1,), self.param_dtype)
        return jnp.append(gate, 1)


def attention_weights(
    scores: Float[Array, "b t"], mask: Bool[Array, "b t"], *, bounded: bool
) -> Float[Array, "b t"]:
    """Weights of the real frames from an attention's scores; all zero where there is none.

    `bounded`: `sigmoid(relu(score))`, in [0.5, 1), over its sum, as published: no frame outweighs
    another by more than 2:1, and where the scores are all large or all negative nothing is left to
    learn. Else the softmax over time, which knows neither limit.
    """
    if bounded:
        return normalise_over_time(nn.sigmoid(nn.relu(scores)), mask)
    scores = jnp.where(mask, scores, -jnp.inf)
    highest = jnp.where(mask.any(1), scores.max(1), 0)[:, None]
    return normalise_over_time(jnp.exp(scores - jax.lax.stop_gradient(highest)), mask)


def normalise_over_time(raw: Float[Array, "b t"], mask: Bool[Array, "b t"]) -> Float[Array, "b t"]:
    """`m * a / sum_t m * a`: weights of the real frames; all zero where there is none."""
    raw = jnp.where(mask, raw, 0)
    total = raw.sum(1, keepdims=True)
    return raw / jnp.where(total > 0, total, 1)


def fuse_frames(
    maps: Float[Array, "m h w c"],
    frame_weights: Float[Array, "b t"],
    tracklet: Int[Array, " m"],
    slot: Int[Array, " m"],
) -> Float[Array, "b h w c"]:
    """`M[b] = sum_t weight[b, t] * F[b, t]` over packed frames.

    A product with a [B, M] matrix: unlike a scatter it gives the same bits on every run.
    """
    b = frame_weights.shape[0]
    owner = tracklet[None, :] == jnp.arange(b)[:, None]
    inside = jnp.minimum(tracklet, b - 1)
    matrix = jnp.where(owner, frame_weights[inside, slot][None, :], 0).astype(maps.dtype)
    flat = maps.reshape(maps.shape[0], -1)
    return (matrix @ flat).reshape(b, *maps.shape[1:])
