"""One vector a tracklet: every frame, in chunks, through the model, counted.

docs/method.md, "Feature of a tracklet at test time": all frames in order in chunks; a chunk's
feature is the concatenation over stripes; a tracklet's is the mean of its chunks' over its L2 norm.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stf_jax import hosts
from stf_jax.data.augment import normalise
from stf_jax.data.batch import PackedBatch
from stf_jax.data.sampling import Plan
from stf_jax.devices import data_parallel
from stf_jax.evaluation.features.feature_files import TrackletFeatures
from stf_jax.models import TemporalFusionNet, TemporalFusionOutput


def extract_step(
    variables: Any,
    batch: PackedBatch,
    *,
    model: TemporalFusionNet,
    num_slots: int,
    flip: bool,
) -> dict[str, Array]:
    """Return chunk features [B, S*C] and frame weights [B, T] of one device's batch.

    With `flip` the feature is the mean of the frames' and their mirror images'; the weights are
    those of the frames as they are.
    """
    frames = normalise(batch.images, dtype=model.dtype)

    def apply(frames: Array) -> TemporalFusionOutput:
        output = model.apply(
            variables,
            frames,
            batch.tracklet,
            batch.slot,
            num_tracklets=batch.labels.shape[0],
            num_slots=num_slots,
            train=False,
            method="packed",
        )
        return cast(TemporalFusionOutput, output)

    output = apply(frames)
    features = output.features
    if flip:
        features = (features + apply(frames[:, :, ::-1]).features) / 2
    nothing = jnp.full(output.frame_weights.shape, jnp.nan, output.frame_weights.dtype)
    return {
        "features": features.reshape(features.shape[0], -1).astype(jnp.float32),
        "frame_weights": output.frame_weights,
        "intra_weights": nothing if output.intra_weights is None else output.intra_weights,
        "inter_weights": nothing if output.inter_weights is None else output.inter_weights,
    }


def parallel_extract_step(
    model: TemporalFusionNet, *, num_slots: int, flip: bool = False, how: str = "pmap"
) -> Callable[[Any, PackedBatch], dict[str, Array]]:
    """Return `extract_step` over all devices: (variables, batch with a device axis).

    `how` is that of `devices.data_parallel`. Equal arguments give the same function, so that a
    run's evaluations share one program.
    """
    hashable: Any = model  # frozen by Flax, which pyright cannot see
    return _parallel_extract_step(hashable, num_slots, flip, how)


@functools.lru_cache(maxsize=2)
def _parallel_extract_step(model: Any, num_slots: int, flip: bool, how: str) -> Callable[..., Any]:
    step = functools.partial(extract_step, model=model, num_slots=num_slots, flip=flip)
    return data_parallel(step, in_axes=(None, 0), out_axes=0, how=how)


def extract_features(
    step: Callable[[Any, PackedBatch], Mapping[str, Any]],
    variables: Any,
    batches: Iterable[PackedBatch],
    plan: Plan,
    num_tracklets: int,
    num_frames: int,
    *,
    weighting: str = "mean",
    progress: Callable[[int], object] | None = None,
) -> TrackletFeatures:
    """Run `step` over `batches` of `plan` and gather a feature for each of N tracklets.

    Of several hosts each runs its share of the plan, and all get all features.

    `weighting` is "mean" (every chunk counts the same, as published) or "frames" (a chunk counts
    by its frames). `progress` gets the number of real frames of each batch. Host memory is one
    vector a tracklet, however long it is. Raises RuntimeError if a planned frame was not seen.
    """
    if weighting not in ("mean", "frames"):
        raise ValueError(f"weighting={weighting!r}: expected 'mean' or 'frames'")
    sums: np.ndarray | None = None
    totals = np.zeros(num_tracklets)
    seen = np.zeros(num_tracklets, np.int64)
    weights = {
        name: np.full(num_frames, np.nan, np.float32)
        for name in ("frame_weights", "intra_weights", "inter_weights")
    }
    count = 0

    def gather(s: int, batch: PackedBatch, output: Mapping[str, Any]) -> None:
        nonlocal sums
        batch, result = jax.device_get((batch, dict(output)))
        features = result["features"]
        if sums is None:
            sums = np.zeros((num_tracklets, features.shape[-1]))
        for d, real in enumerate(batch.real):
            owner, at = batch.tracklet[d][real], batch.slot[d][real]
            frames = np.bincount(owner, minlength=plan.tracklets.shape[2])
            (used,) = np.nonzero(frames)
            rows = plan.tracklets[s, d, used]
            factor = frames[used] if weighting == "frames" else np.ones(len(used))
            np.add.at(sums, rows, features[d, used] * factor[:, None])
            np.add.at(totals, rows, factor)
            np.add.at(seen, rows, frames[used])
            for name, array in weights.items():
                array[plan.frame_rows[s, d, owner, at]] = result[name][d, owner, at]
        if progress is not None:
            progress(int(batch.real.sum()))

    # One batch is computed while the one before it is gathered.
    pending = None
    for s, batch in enumerate(batches):
        output = step(variables, batch)
        if pending is not None:
            gather(*pending)
        pending = (s, replace(batch, images=None), output)
        count = s + 1
    if pending is not None:
        gather(*pending)
    if count != plan.tracklets.shape[0] or sums is None:
        raise RuntimeError(f"{count} of {plan.tracklets.shape[0]} planned batches came")
    planned = np.zeros(num_tracklets, np.int64)
    owners = np.broadcast_to(plan.tracklets[..., None], plan.frame_rows.shape)[plan.frame_rows >= 0]
    np.add.at(planned, owners, 1)
    if (seen > planned).any():
        raise RuntimeError("a frame was seen twice")
    sums, totals, seen = (hosts.combine(array, np.add) for array in (sums, totals, seen))
    weights = {name: hosts.combine(array, np.fmax) for name, array in weights.items()}
    features = sums / np.maximum(totals, 1e-12)[:, None]
    norms = np.linalg.norm(features, axis=1, keepdims=True) + np.finfo(np.float32).eps
    return TrackletFeatures((features / norms).astype(np.float32), num_frames=seen, **weights)
