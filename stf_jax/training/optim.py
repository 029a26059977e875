"""The optimiser: three parameter groups through Optax, each with its own learning rate.

SGD and Adam are PyTorch's: weight decay is added to the gradient, the momentum buffer holds
gradients (not steps), and the learning rate scales what comes out: a change of it acts at once.
"""

from collections.abc import Hashable, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from stf_jax.config import OptimizerConfig
from stf_jax.errors import UserError
from stf_jax.training.schedules import Schedule, classifier_only_steps, make_schedules

GROUP_OF = {
    "backbone": "backbone",
    "classifier": "classifier",
    "embedding": "rest",
    "intra_attention": "rest",
    "relation": "rest",
    "stage_attention": "rest",
    "stage_gate": "rest",
    "neck": "rest",
}


def make_optimizer(
    config: OptimizerConfig, steps_per_epoch: int, total_steps: int, params: PyTree
) -> tuple[optax.GradientTransformation, dict[str, Schedule]]:
    """Optimiser of `config.optimizer` and the learning rate of each group.

    Order of things in one update: mean over `accumulate` steps; gradients of frozen groups dropped;
    clipping by the global norm of what is left; weight decay, momentum or Adam; learning rate.
    With `accumulate` = k the update happens in every k-th training step, with that step's learning
    rate; epochs stay epochs of training steps. In the classifier-only steps the other groups'
    parameters, momenta and Adam counts stay as they are, bit by bit.

    Args:
        config: the config's `optimizer` section.
        steps_per_epoch: training steps (not updates) per epoch, >= 1.
        total_steps: training steps of the whole run; the cosine ends there.
        params: parameters (or their shapes) with the top-level keys of `GROUP_OF`.

    Returns:
        The transformation, and {"backbone", "classifier", "rest"} -> schedule, a function of the
        0-based training step, for logging.

    Raises:
        UserError: classifier-only epochs without a classifier.
        ValueError: a top-level key of `params` that is in no group.
    """
    labels = parameter_groups(params)
    frozen = classifier_only_steps(config, steps_per_epoch)
    if frozen and "classifier" not in jax.tree.leaves(labels):
        raise UserError(
            "optimizer.classifier_only_epochs: "
            f"found {config.classifier_only_epochs}, expected 0: this model has no classifier"
        )
    schedules = make_schedules(config, steps_per_epoch, total_steps)
    every = config.accumulate
    transformation = _with_rates(config, labels, schedules, frozen, every)
    if every > 1:
        leaves = [leaf.dtype for leaf in jax.tree.leaves(params)]
        transformation = optax.MultiSteps(
            transformation, every, accumulator_dtype=jnp.result_type(jnp.float32, *leaves)
        ).gradient_transformation()
    return transformation, schedules


def parameter_groups(params: PyTree) -> PyTree:
    """The group ("backbone", "classifier", "rest") of each leaf, by its top-level key.

    Raises:
        ValueError: a top-level key that belongs to no group.
    """
    unknown = sorted(set(params) - set(GROUP_OF))
    if unknown:
        raise ValueError(
            f"parameters {', '.join(unknown)}: in no optimiser group; known: {', '.join(GROUP_OF)}"
        )
    return {key: jax.tree.map(lambda _, k=key: GROUP_OF[k], value) for key, value in params.items()}


class RatedState(NamedTuple):
    """State of the transformation: updates done so far, and each group's momenta."""

    updates: Int[Array, ""]
    groups: Any


def _with_rates(
    config: OptimizerConfig,
    labels: PyTree,
    schedules: Mapping[str, Schedule],
    frozen: int,
    every: int,
) -> optax.GradientTransformation:
    """Clipping, each group's direction and learning rate; all on one clock, that of the updates."""
    groups = optax.partition({group: _direction(config) for group in schedules}, labels)
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()

    def init(params: PyTree) -> RatedState:
        return RatedState(jnp.zeros([], jnp.int32), groups.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        step = state.updates * every + (every - 1)

        def if_learning(group: str, new: Any, old: Any) -> Any:
            if group == "classifier" or not frozen:
                return new
            return jnp.where(step >= frozen, new, old)

        def scaled(group: str, direction: Array) -> Array:
            rate = jnp.asarray(schedules[group](step), direction.dtype)
            return if_learning(group, -rate * direction, 0)

        gradient = jax.tree.map(lambda group, g: if_learning(group, g, 0), labels, updates)
        gradient, _ = clip.update(gradient, optax.EmptyState())
        directions, new = groups.update(gradient, state.groups, params)
        before, after = state.groups.inner_states, cast(Any, new).inner_states
        inner: dict[Hashable, Any] = {
            g: jax.tree.map(partial(if_learning, g), after[g], before[g]) for g in schedules
        }
        state = RatedState(state.updates + 1, optax.PartitionState(inner))
        return jax.tree.map(scaled, labels, directions), state

    return optax.GradientTransformation(init, update)


def _direction(config: OptimizerConfig) -> optax.GradientTransformation:
    """What the learning rate multiplies: torch.optim.SGD's, Adam's or AdamW's."""
    decay = optax.add_decayed_weights(config.weight_decay)
    if config.name == "sgd":
        if not config.momentum:
            return decay
        return optax.chain(decay, optax.trace(config.momentum, nesterov=config.nesterov))
    adam = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)
    return optax.chain(decay, adam) if config.name == "adam" else optax.chain(adam, decay)
