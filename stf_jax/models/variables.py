"""A model's variables: fresh ones, and so the shapes of any."""

from typing import Any

import jax
import jax.numpy as jnp

from stf_jax.models.temporal_fusion_net import TemporalFusionNet


def init_variables(model: TemporalFusionNet, seed: int, height: int, width: int) -> dict[str, Any]:
    """Return freshly initialised variables; a pure function of `seed` and the model's fields.

    Shapes of parameters do not depend on the image size; the tiny image only has to survive the
    strides and hold `num_stripes` rows, so the given size is used.
    """
    frame = jnp.zeros((1, height, width, 3), model.dtype)
    index = jnp.zeros((1,), jnp.int32)

    def init(key):
        return model.init(key, frame, index, index, num_tracklets=1, num_slots=1, method="packed")

    return dict(jax.jit(init)(jax.random.key(seed)))
