"""One training step as a pure function, and as a program over all local devices."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from stf_jax.config import AugmentConfig, LossConfig
from stf_jax.data.augment import augment
from stf_jax.data.batch import PackedBatch
from stf_jax.devices import DEVICES, data_parallel
from stf_jax.models import TemporalFusionNet
from stf_jax.training.losses import batch_hard_triplet, mean_count, smoothed_cross_entropy
from stf_jax.training.state import TrainState


def total_loss(
    features: Float[Array, "b s c"],
    logits: Float[Array, "b s k"],
    labels: Any,
    options: LossConfig,
    *,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Return the loss of a batch and its parts by name; `labels` [B] int32, -1 for no tracklet.

    With `axis_name` this is a device's share: the mean over devices is the loss of the whole batch,
    and triplets are of all devices' tracklets.
    """
    count = None if axis_name is None else mean_count(labels >= 0, axis_name)
    cross_entropy = smoothed_cross_entropy(logits, labels, options.label_smoothing, count=count)
    parts = {"cross_entropy": cross_entropy}
    loss = parts["cross_entropy"]
    if options.triplet_weight:
        flat = features.reshape(features.shape[0], -1)
        parts["triplet"] = batch_hard_triplet(
            flat,
            labels,
            distance=options.triplet_distance,
            margin=options.triplet_margin,
            axis_name=axis_name,
        )
        loss = loss + options.triplet_weight * parts["triplet"]
    return loss, parts


def train_step(
    state: TrainState,
    batch: PackedBatch,
    key: PRNGKeyArray,
    *,
    model: TemporalFusionNet,
    optimizer: optax.GradientTransformation,
    num_slots: int,
    loss_options: LossConfig,
    augment_options: AugmentConfig,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """Return the next state and this step's metrics; runs under a device axis named `DEVICES`.

    `batch` is this device's share. `key` is the run's; the step is folded in, and the number of
    each frame, or tracklet, in it, so that a resumed run draws the same augmentations, and one on
    other devices. Gradients, statistics and metrics are averaged over the devices. With a model
    whose `axis_name` is `DEVICES` the result does not depend on their number, but for the order of
    sums.
    """
    labels = batch.labels
    owner = jnp.minimum(batch.tracklet, len(labels) - 1)
    # Frames of one number get the same draws.
    within = batch.slot if augment_options.per == "frame" else 0
    frames = augment(
        jax.random.fold_in(key, state.step),
        batch.images,
        augment_options,
        index=batch.global_index[owner] * num_slots + within,
        dtype=model.dtype,
    )

    def loss_of(params):
        output, updated = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            frames,
            batch.tracklet,
            batch.slot,
            num_tracklets=labels.shape[0],
            num_slots=num_slots,
            train=True,
            method="packed",
            mutable=["batch_stats"],
        )
        before = output.features if output.before_neck is None else output.before_neck
        loss, parts = total_loss(before, output.logits, labels, loss_options, axis_name=DEVICES)
        # The feature of a single stage is that of the model.
        if loss_options.stage_weight and len(model.stages) > 1:
            logits, _ = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                output.stage_features,
                labels >= 0,
                method="stage_logits",
                mutable=["batch_stats"],
            )
            parts["stages"] = stage_loss(output.stage_features, logits, labels, loss_options)
            loss = loss + loss_options.stage_weight * parts["stages"]
        right = (labels >= 0) & (output.logits.sum(1).argmax(-1) == labels)
        accuracy = right.sum() / mean_count(labels >= 0, DEVICES)
        return loss, (updated["batch_stats"], {"loss": loss, "accuracy": accuracy, **parts})

    (_, (batch_stats, metrics)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    # One array, which the barrier keeps: GPUs take one kernel for its norm, and update many
    # parameters in one, in place (a fifth of the step's kernels less).
    gradient, unravel = ravel_pytree(grads)
    # Unsynchronised statistics differ between devices: average them, or they drift in silence.
    gradient, batch_stats, metrics = jax.lax.pmean((gradient, batch_stats, metrics), DEVICES)
    gradient = jax.lax.optimization_barrier(gradient)
    grads = unravel(gradient)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics["grad_norm"] = jnp.linalg.norm(gradient)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state), metrics


def stage_loss(
    stage_features: Float[Array, "p b s c"],
    stage_logits: Float[Array, "p b s k"],
    labels: Any,
    options: LossConfig,
) -> Float[Array, ""]:
    """Sum over the stages of `total_loss`, a device's share; else only their sum is taught."""
    each = zip(stage_features, stage_logits, strict=True)
    losses = [total_loss(u, z, labels, options, axis_name=DEVICES)[0] for u, z in each]
    return jnp.stack(losses).sum()


def parallel_train_step(
    devices: Sequence[Any] | None = None, *, how: str = "pmap", **static: Any
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """Return `train_step` over `devices` (default: all): (state, batch with a device axis, key).

    The state has no device axis; it is donated, so the one passed in is gone afterwards. `how` is
    that of `devices.data_parallel`.
    """
    return data_parallel(
        functools.partial(train_step, **static),
        in_axes=(None, 0, None),
        out_axes=None,
        donate=(0,),
        devices=devices,
        how=how,
    )
