"""Features -> updates of the weights."""

from stf_jax.devices import replicate
from stf_jax.training.losses import batch_hard_triplet, smoothed_cross_entropy
from stf_jax.training.optim import make_optimizer
from stf_jax.training.state import TrainState, init_state
from stf_jax.training.steps import parallel_train_step, total_loss, train_step

__all__ = [
    "TrainState",
    "batch_hard_triplet",
    "init_state",
    "make_optimizer",
    "parallel_train_step",
    "replicate",
    "smoothed_cross_entropy",
    "total_loss",
    "train_step",
]
