"""What training carries from step to step: arrays only."""

from typing import Any, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from stf_jax.models import TemporalFusionNet


@no_type_check  # JAX also fills it with shapes, shardings and None
@flax.struct.dataclass
class TrainState:
    """Step count, weights, BatchNorm statistics and the optimiser's state."""

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


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


def init_state(variables: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step."""
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(params),
    )
