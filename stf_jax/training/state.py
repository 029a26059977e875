"""What training carries from step to step: arrays only."""

from typing import Any, no_type_check

import flax.struct
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int


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


def init_state(variables: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step."""
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(params),
    )
