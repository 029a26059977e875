"""Losses: label-smoothed cross entropy per stripe, and batch-hard triplets.

Both compute in float32 whatever the model's dtype is (float64 stays float64), and leave out the
slots that hold no tracklet (label -1).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stf_jax.errors import UserError

DISTANCES = ("euclidean", "cosine")


def smoothed_cross_entropy(
    logits: Float[Array, "b s k"],
    labels: Int[Array, " b"],
    smoothing: float | Float[Array, ""] = 0.1,
    *,
    count: Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Cross entropy with smoothed targets, summed over stripes, mean over the real tracklets.

    The target of a tracklet is `1 - smoothing + smoothing / K` on its own class and `smoothing / K`
    on the others (Szegedy et al., "Rethinking the Inception Architecture", section 7; the reference
    uses 0.1).

    Args:
        logits: [B, S, K], any float dtype.
        labels: [B] in 0..K-1; a negative label marks an empty slot, which counts for nothing.
        smoothing: in [0, 1).
        count: what to divide the sum by instead of the number of real tracklets. With several
            devices, the mean of that number over the devices makes the devices' mean gradient that
            of one device holding all the tracklets, however unevenly they are spread.

    Returns:
        A scalar, at least the entropy of the targets; 0, with zero gradient, where no tracklet is
        real.
    """
    real = labels >= 0
    logits = _at_least_float32(jnp.where(real[:, None, None], logits, 0))
    log_probabilities = jax.nn.log_softmax(logits)
    index = jnp.maximum(labels, 0)[:, None, None]
    of_label = jnp.take_along_axis(log_probabilities, index, axis=-1)[..., 0]
    per_stripe = -(1 - smoothing) * of_label - smoothing * log_probabilities.mean(-1)
    total = jnp.where(real, per_stripe.sum(-1), 0).sum()
    return total / (jnp.maximum(real.sum(), 1) if count is None else count)


def batch_hard_triplet(
    features: Float[Array, "b f"],
    labels: Int[Array, " b"],
    *,
    distance: str = "euclidean",
    margin: str | float = "soft",
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Batch-hard triplet loss: each tracklet against its farthest positive and nearest negative.

    Source: Hermans, Beyer, Leibe, "In Defense of the Triplet Loss for Person Re-Identification"
    (arXiv 1703.07737), equation 5; soft margin: `log(1 + exp(d_positive - d_negative))`, hard
    margin m: `max(0, m + d_positive - d_negative)`. A tracklet without a positive (itself does not
    count) or without a negative in the batch is not an anchor; the mean is over anchors.

    Args:
        features: [B, F], any float dtype, not necessarily of unit length.
        labels: [B]; negative marks an empty slot, which is neither anchor, positive nor negative.
        distance: "euclidean" (not squared) or "cosine" (1 - cosine, in 0..2).
        margin: "soft", or the hard margin in units of the distance, >= 0.
        axis_name: of an axis of devices that share a batch: positives and negatives are sought
            among all of them, and the mean over devices is the whole batch's loss.

    Returns:
        A scalar >= 0; 0 where there is no anchor. The gradient is finite everywhere: it is taken as
        zero through a distance of zero and through a feature of length zero.

    Raises:
        UserError: unknown distance or margin.
    """
    if distance not in DISTANCES:
        raise UserError(f"triplet distance: found {distance!r}, expected one of {DISTANCES}")
    if margin != "soft" and (isinstance(margin, str) or not margin >= 0):
        raise UserError(f"triplet margin: found {margin!r}, expected 'soft' or a number >= 0")
    real = labels >= 0
    x = _at_least_float32(jnp.where(real[:, None], features, 0))
    if distance == "cosine":
        x = x * _inverse_or_zero(_length(x))[:, None]
    others, their_labels, own = x, labels, jnp.arange(len(labels))
    if axis_name is not None:
        others, their_labels = jax.lax.all_gather((x, labels), axis_name, tiled=True)
        own = own + len(labels) * jax.lax.axis_index(axis_name)
    both = real[:, None] & (their_labels >= 0)[None, :]
    same = labels[:, None] == their_labels[None, :]
    positive = both & same & (own[:, None] != jnp.arange(len(their_labels))[None, :])
    negative = both & ~same
    # Only chooses, so it needs no gradient; the chosen distances are taken again from the features.
    between = _all_distances(*jax.lax.stop_gradient((x, others)), distance)
    hardest_positive = jnp.where(positive, between, -jnp.inf).argmax(1)
    hardest_negative = jnp.where(negative, between, jnp.inf).argmin(1)
    to_positive = _pair_distance(x, others[hardest_positive], distance)
    to_negative = _pair_distance(x, others[hardest_negative], distance)
    gap = to_positive - to_negative
    per_anchor = jax.nn.softplus(gap) if margin == "soft" else jax.nn.relu(gap + float(margin))
    anchor = positive.any(1) & negative.any(1)
    return jnp.where(anchor, per_anchor, 0).sum() / mean_count(anchor, axis_name)


def mean_count(counted: Bool[Array, " b"], axis_name: str | None) -> Float[Array, ""]:
    """How many are `counted` per device, the mean over the axis `axis_name`: float32, above 0.

    Devices may hold different numbers; of sums divided by this the mean over devices is the mean
    over all that is counted. None: of this device alone.
    """
    count, devices = counted.sum(), 1
    if axis_name is not None:
        count, devices = jax.lax.psum(count, axis_name), jax.lax.axis_size(axis_name)
    return jnp.maximum(count, 1).astype(jnp.float32) / devices


def _at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _all_distances(
    x: Float[Array, "b f"], others: Float[Array, "n f"], distance: str
) -> Float[Array, "b n"]:
    """Distances, or what orders like them: squares where Euclidean, with matmul's few digits."""
    if distance == "euclidean":  # from the mean: distances stay, the products' cancellation shrinks
        mean = others.mean(0, keepdims=True)
        x, others = x - mean, others - mean
    products = jnp.matmul(x, others.T, precision=jax.lax.Precision.HIGHEST)
    if distance == "cosine":
        return 1 - products
    return (x * x).sum(1)[:, None] + (others * others).sum(1)[None, :] - 2 * products


def _pair_distance(
    a: Float[Array, "b f"], b: Float[Array, "b f"], distance: str
) -> Float[Array, " b"]:
    """Distance of each row of `a` from the same row of `b`; unit rows if "cosine"."""
    return _length(a - b) if distance == "euclidean" else 1 - (a * b).sum(-1)


def _length(x: Float[Array, "b f"]) -> Float[Array, " b"]:
    """Euclidean length of the rows, with gradient 0 (not NaN) at zero."""
    square = (x * x).sum(-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _inverse_or_zero(x: Float[Array, " b"]) -> Float[Array, " b"]:
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, 1), 0)
