"""When the loop logs, evaluates and stores, and with what; what is not finite is never stored."""

import io
import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tqdm import tqdm

from stf_jax.config import TrainConfig
from stf_jax.data.batch import PackedBatch
from stf_jax.data.sampling import Position
from stf_jax.errors import UserError
from stf_jax.training import loop
from stf_jax.training.loss_watch import LossWatch
from stf_jax.training.state import TrainState

STEPS_PER_EPOCH = 2
BATCH = PackedBatch(
    np.zeros((1, 4, 2, 3), np.uint8), *np.zeros((2, 1), np.int32), *np.zeros((2, 1), np.int32)
)


def position(step: int) -> Position:
    """After `step` steps, at least one."""
    return Position(1 + (step - 1) // STEPS_PER_EPOCH, 1 + (step - 1) % STEPS_PER_EPOCH, 0)


def run(
    options: TrainConfig,
    total: int,
    *,
    loss: Callable[[int], float] = float,
    stop_before: int = 0,
    begun: int = 0,
) -> tuple[list[Any], Any, bool]:
    """What is logged, evaluated and stored, the result, and whether the loss was refused."""
    calls: list[Any] = []

    def train_step(state: Any, batch: PackedBatch) -> tuple[TrainState, dict[str, Any]]:
        state = state.replace(step=state.step + 1)
        return state, {"loss": np.float32(loss(int(state.step)))}

    def log(step: int, epoch: int, means: Any, speed: Any) -> None:
        assert set(speed) == {"frames_per_second", "data_wait"}
        calls.append(("log", step, epoch, means["loss"]))

    def evaluate(step: int, state: TrainState) -> dict[str, float]:
        calls.append(("evaluate", step, int(state.step)))
        return {"mAP": step / 100}

    def store(state: TrainState, at: Position, scores: Any) -> None:
        assert at == (position(int(state.step)))
        calls.append(("store", int(state.step), dict(scores)))

    bar = tqdm(file=io.StringIO(), total=total - begun)
    state = TrainState(jnp.int32(begun), {}, {}, {})
    stops = itertools.count(begun + 1)
    try:
        found, refused = (
            loop.run_steps(
                state,
                position(max(begun, 1)),
                ((position(step), 5, BATCH) for step in itertools.count(begun + 1)),
                train_step,
                options,
                steps_per_epoch=STEPS_PER_EPOCH,
                total_steps=total,
                stop=lambda: next(stops) == stop_before,
                watch=LossWatch("none"),
                bar=bar,
                log=log,
                evaluate=evaluate,
                store=store,
            ),
            False,
        )
        assert int(found[0].step) - begun == bar.n
    except UserError:
        found, refused = None, True
    bar.close()
    return calls, found, refused


def test_everything_has_its_time() -> None:
    options = TrainConfig(log_every=3, evaluate_every=2, checkpoint_minutes=0.0)
    calls, (_, scores), _ = run(options, 9)
    assert calls == [
        ("log", 3, 2, 2.0),
        ("evaluate", 4, 4),
        ("store", 4, {"mAP": 0.04}),
        ("log", 6, 3, 5.0),
        ("evaluate", 8, 8),
        ("store", 8, {"mAP": 0.08}),
        ("log", 9, 5, 8.0),
        ("evaluate", 9, 9),
        ("store", 9, {"mAP": 0.09}),
    ]
    assert scores == {"mAP": 0.09}
    # Once more from step 7 on: numbers, epochs and evaluations are the run's, not the start's.
    calls, _, _ = run(options, 9, begun=7)
    assert calls == [
        ("evaluate", 8, 8),
        ("store", 8, {"mAP": 0.08}),
        ("log", 9, 5, 8.5),
        ("evaluate", 9, 9),
        ("store", 9, {"mAP": 0.09}),
    ]


def test_a_stop_stores_and_evaluates_nothing() -> None:
    calls, (state, scores), _ = run(TrainConfig(log_every=100, evaluate_every=1), 9, stop_before=4)
    assert (int(state.step), scores) == (3, {"mAP": 0.02})
    assert calls[-1] == ("store", 3, {})
    assert run(TrainConfig(), 9, begun=9)[0] == []


def test_minutes_without_a_checkpoint_bring_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute passes at each look at the clock: one at the start, one a step, one a checkpoint."""
    clock = itertools.count(0, 60.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    options = TrainConfig(log_every=100, evaluate_every=0, checkpoint_minutes=2.5)
    calls, _, _ = run(options, 8)
    assert [call for call in calls if call[0] == "store"] == [
        ("store", 3, {}),
        ("store", 6, {}),
        ("store", 8, {"mAP": 0.08}),
    ]


@pytest.mark.parametrize("how", ["at the end", "after an epoch", "by the clock", "when stopped"])
def test_what_is_not_finite_is_not_stored(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is logged before: the loop itself looks at the losses of all steps taken."""
    options = {
        "at the end": TrainConfig(log_every=100, evaluate_every=0, max_steps=4),
        "after an epoch": TrainConfig(log_every=100, evaluate_every=2),
        "by the clock": TrainConfig(log_every=100, evaluate_every=0, checkpoint_minutes=3.5),
        "when stopped": TrainConfig(log_every=100, evaluate_every=0),
    }[how]
    clock = itertools.count(0, 60.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    total, stop = (4 if how == "at the end" else 9), (5 if how == "when stopped" else 0)

    def loss(step: int) -> float:
        return math.nan if step == 4 else 1.0

    calls, _, refused = run(options, total, loss=loss, stop_before=stop)
    assert refused
    assert [call for call in calls if call[0] != "log"] == []
    # The same with finite losses: the first thing stored is step 4.
    calls, _, refused = run(options, total, stop_before=stop)
    assert not refused
    assert next(call for call in calls if call[0] == "store")[1] == 4
