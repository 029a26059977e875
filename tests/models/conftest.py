"""Weights at which everything in a model is awake, for tests of models."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict


def draw(path: tuple[str, ...], shape: tuple[int, ...], r: np.random.RandomState) -> np.ndarray:
    n = r.standard_normal(shape)
    if path[-1] == "var":
        return 1 + 0.25 * abs(n)
    if path[-1] == "kernel":
        n = n / np.sqrt(np.prod(shape[:-1]))
        return n
    if path[-1] == "scale":
        return 1 + 0.1 * n
    # The attentions' last ReLU must not sleep: a constant score would pass any test.
    awake = path[1:3] in (("intra_attention", "bn"), ("relation", "f_1")) and path[-1] == "bias"
    return 0.1 * n + awake


@pytest.fixture(scope="session")
def random_variables() -> Callable[..., dict[str, Any]]:
    """Return a function: model, seed -> float32 variables, nothing at its initial value."""

    def variables(model, seed: int = 0) -> dict[str, Any]:
        frames = jax.ShapeDtypeStruct((1, 1, 32 * model.num_stripes, 32, 3), jnp.float32)
        shapes: Any = jax.eval_shape(model.init, jax.random.key(0), frames)
        r = np.random.RandomState(seed)
        return unflatten_dict(
            {
                path: jnp.asarray(draw(path, leaf.shape, r), jnp.float32)
                for path, leaf in dict[Any, Any](flatten_dict(shapes)).items()
            }
        )

    return variables
