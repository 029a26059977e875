"""Learning rates: from the optimiser's config to one number per parameter group and step.

Epochs count from 1, training steps from 0: epoch e starts at step (e - 1) * steps_per_epoch. A
learning rate belongs to the step whose update it scales.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from stf_jax.config import OptimizerConfig

GROUPS = ("backbone", "classifier", "rest")

# Training step (0-based, int or array of ints) -> learning rate; an optax.Schedule with its types.
Schedule = Callable[[ArrayLike], Float[Array, "..."]]


def make_schedules(
    config: OptimizerConfig, steps_per_epoch: int, total_steps: int
) -> dict[str, Schedule]:
    """Learning rate of each group as a function of the training step (0-based; int or array).

    - staircase: the group's rate times `staircase_factor` for each epoch of `staircase_epochs` that
      has begun (the reference: 15, 30, 40, 50, 60, 70, each from its first step on);
    - cosine: the group's rate times (1 + cos(pi * done)) / 2, done from 0 at the end of the warm-up
      to 1 at `total_steps`, and stays 1 (rate 0) after it;
    - warm-up, for either: step i (from 0) of n has (i + 1) / n of the rate;
    - classifier-only epochs come first: the classifier has `classifier_only_lr`, the others 0.
      Epoch numbers continue through them; a warm-up begins after them.
    """
    frozen = classifier_only_steps(config, steps_per_epoch)
    warm = round(config.warmup_epochs * steps_per_epoch)
    boundaries = np.array([round((e - 1) * steps_per_epoch) for e in config.staircase_epochs])
    factors = config.staircase_factor ** np.arange(len(boundaries) + 1)

    def shape(step: Array) -> Array:
        if config.schedule == "staircase":
            return jnp.asarray(factors)[jnp.searchsorted(boundaries, step, side="right")]
        length = max(total_steps - frozen - warm, 1)
        done = jnp.clip((step - frozen - warm).astype(float) / length, 0, 1)
        return (1 + jnp.cos(jnp.pi * done)) / 2

    def schedule_of(group: str) -> Schedule:
        rate = getattr(config, f"lr_{group}")
        first = config.classifier_only_lr if group == "classifier" else 0.0

        def schedule(step: ArrayLike) -> Float[Array, "..."]:
            step = jnp.asarray(step)
            ramp = jnp.clip((step - frozen + 1).astype(float) / max(warm, 1), 0, 1)
            return jnp.where(step < frozen, first, rate * ramp * shape(step))

        return schedule

    return {group: schedule_of(group) for group in GROUPS}


def classifier_only_steps(config: OptimizerConfig, steps_per_epoch: int) -> int:
    """Number of training steps, from the first, in which only the classifier learns."""
    return round(config.classifier_only_epochs * steps_per_epoch)
