"""The training loop: a batch and a step; at their time a log entry, an evaluation, a checkpoint."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tqdm import tqdm

from stf_jax.config import TrainConfig
from stf_jax.data.batch import PackedBatch
from stf_jax.data.sampling import Position
from stf_jax.training.loss_watch import LossWatch
from stf_jax.training.state import TrainState
from stf_jax.training.throughput import Throughput


def run_steps(
    state: TrainState,
    position: Position,
    batches: Iterator[tuple[Position, int, PackedBatch]],
    train_step: Callable[[TrainState, PackedBatch], tuple[TrainState, Mapping[str, Any]]],
    options: TrainConfig,
    *,
    steps_per_epoch: int,
    total_steps: int,
    stop: Callable[[], bool],
    watch: LossWatch,
    bar: tqdm,
    log: Callable[[int, int, Mapping[str, float], Mapping[str, float]], None],
    evaluate: Callable[[int, TrainState], dict[str, float]],
    store: Callable[[TrainState, Position, Mapping[str, float]], None],
) -> tuple[TrainState, dict[str, float]]:
    """Train from `state`, at `position`, to `total_steps`, or until `stop` says so; then store.

    Of several hosts all run it, each with its share of the batches.

    Args:
        state: see `training.state`; donated to the first step.
        position: where in the data `state` is.
        batches: `training.batches.training_batches`: position after a batch, frames, the batch.
        train_step: from state and batch to the next state and the step's metrics.
        options: the config's `train` section (log_every, evaluate_every, checkpoint_minutes).
        steps_per_epoch: steps in an epoch.
        total_steps: of the run; those before `state` count.
        stop: checked before each step.
        watch: refuses a loss that is not finite.
        bar: updated at each step.
        log: takes step, epoch, and the means of the metrics and the speed since the last call.
        evaluate: takes step and state, gives the scores.
        store: takes state, position and scores (empty: not evaluated); writes a checkpoint.

    Returns:
        The last state, and the scores of the last evaluation; empty if there was none.
    """
    step, scores = int(state.step), {}
    speed, stored_at = Throughput(), time.monotonic()
    while step < total_steps:
        if stop():
            watch.wait()
            store(state, position, {})
            break
        position, frames, batch = speed.fetch(batches)
        state, metrics = train_step(state, batch)
        step += 1
        bar.update()
        watch.add(step, metrics)
        speed.frames += frames
        if step % options.log_every == 0 or step == total_steps:
            log(step, position.epoch, watch.drain(), speed.read())
        every, minutes = options.evaluate_every, options.checkpoint_minutes
        epoch_ends = position.step_in_epoch == steps_per_epoch
        if step == total_steps or (epoch_ends and every and position.epoch % every == 0):
            watch.wait()
            scores = evaluate(step, state)
            store(state, position, scores)
            stored_at = time.monotonic()
            speed.reset()
        elif minutes and time.monotonic() - stored_at > 60 * minutes:
            watch.wait()
            store(state, position, {})
            stored_at = time.monotonic()
    return state, scores
