"""What is exported: uint8 frames and a mask in, unit features and frame weights out."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, Float32, UInt8

from stf_jax.data.augment import normalise
from stf_jax.models import TemporalFusionNet, TemporalFusionOutput
from stf_jax.models.batch_norm import BatchNorm
from stf_jax.models.temporal_fusion_net import STAGES

INPUTS = ("frames", "mask")
OUTPUTS = ("features", "frame_weights", "norms")
Program = Callable[[Any, Any], tuple[Array, Array, Array]]


def feature_program(model: TemporalFusionNet, variables: Any, *, flip: bool) -> Program:
    """Return the function of frames [B, T, H, W, 3], uint8 RGB, and mask [B, T] that is exported.

    It gives `features` [B, S*C] float32 of unit length (zero for a tracklet without a real frame),
    `frame_weights` [B, T] float32 (summing to 1 over real frames), and `norms` [B] float32: a
    feature times its norm is what a chunk adds to the mean of a longer tracklet. With `flip` the
    feature is the mean of the frames' and their mirror images'.
    """

    variables = jax.tree.map(jnp.asarray, variables)

    def program(
        frames: UInt8[Array, "b t h w 3"], mask: Bool[Array, "b t"]
    ) -> tuple[Float32[Array, "b d"], Float32[Array, "b t"], Float32[Array, " b"]]:
        def apply(pixels: Array) -> TemporalFusionOutput:
            output = model.apply(variables, pixels, mask, train=False)
            return cast(TemporalFusionOutput, output)

        pixels = normalise(frames)
        output = apply(pixels)
        features = output.features
        if flip:
            features = (features + apply(jnp.flip(pixels, 3)).features) / 2
        features = features.reshape(frames.shape[0], -1)
        features = jnp.where(mask.any(1)[:, None], features, 0)
        norms = jnp.sqrt((features * features).sum(1))
        unit = features / (norms + np.finfo(np.float32).eps)[:, None]
        return unit, output.frame_weights, norms

    return program


def folded(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return variables of the same function whose BatchNorms after convolutions only add a bias.

    Their factors are in the kernels. Every `conv...` with a `bn...` beside it, as the models name
    them; a BatchNorm is left with mean 0, scale 1 and a variance that its epsilon makes 1. One that
    a stage has own statistics of stays as it is: its kernel serves more than one factor.
    """
    params = flatten_dict(variables["params"])
    stats = flatten_dict(variables["batch_stats"])
    params, stats = ({k: np.asarray(v) for k, v in tree.items()} for tree in (params, stats))
    for path in [path for path in params if path[-1] == "kernel" and "conv" in path[-2]]:
        conv, bn = path[:-1], (*path[:-2], path[-2].replace("conv", "bn"))
        own = any((stage, *bn, "mean") in stats for stage in STAGES.values())
        if own or (*bn, "scale") not in params:
            continue
        mean, var = stats[(*bn, "mean")], stats[(*bn, "var")]
        factor = params[(*bn, "scale")] / np.sqrt(var + BatchNorm.epsilon)
        params[path] = params[path] * factor
        before = params.get((*conv, "bias"), np.zeros_like(mean))
        if (*conv, "bias") in params:
            params[(*conv, "bias")] = np.zeros_like(mean)
        params[(*bn, "bias")] = params[(*bn, "bias")] + (before - mean) * factor
        params[(*bn, "scale")] = np.ones_like(mean)
        stats[(*bn, "mean")] = np.zeros_like(mean)
        stats[(*bn, "var")] = np.full_like(var, 1 - BatchNorm.epsilon)
    return {"params": unflatten_dict(params), "batch_stats": unflatten_dict(stats)}
