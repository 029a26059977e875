import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from damaged_checkpoint import flip_a_bit
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import stf_jax
from stf_jax.config import OptimizerConfig
from stf_jax.data.sampling import Position
from stf_jax.errors import UserError
from stf_jax.run.checkpoint import (
    RULES,
    SUBSET,
    describe,
    find_step,
    open_manager,
    restore_model,
    restore_state,
    save,
)
from stf_jax.training.optim import make_optimizer


@flax.struct.dataclass
class State:
    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any


def _state(step=0, seed=0, identities=5, **config):
    """A state with everything an optimiser may put in it, all values drawn."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape).astype(np.float32))

    params = {
        "backbone": {"conv1": {"kernel": draw(7, 7, 3, 8)}, "bn1": {"scale": draw(8)}},
        "embedding": {"kernel": draw(8, 16).astype(jnp.bfloat16)},
        "classifier": {"kernel": draw(16, identities), "bias": draw(identities)},
    }
    optimizer, _ = make_optimizer(OptimizerConfig(**config), 4, 100, params)
    opt_state = jax.tree.map(lambda x: draw(*x.shape).astype(x.dtype), optimizer.init(params))
    batch_stats = {"backbone": {"bn1": {"mean": draw(8), "var": draw(8)}}}
    return State(jnp.int32(step), params, batch_stats, opt_state)


def _variables(state):
    return {"params": state.params, "batch_stats": state.batch_stats}


def _assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def _save_all(directory, *entries):
    """One checkpoint for each (step, mAP or None); its values are drawn with the step as seed."""
    with open_manager(directory) as manager:
        for step, score in entries:
            metrics = None if score is None else {"mAP": score, "rank1": 0.5}
            assert save(manager, _state(step, seed=step), Position(1, step, 0), metrics)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"name": "adamw", "accumulate": 2, "classifier_only_epochs": 1},
        {"momentum": 0.0, "nesterov": False},
    ],
)
def test_a_state_comes_back_bit_by_bit(tmp_path, config):
    state = _state(7, **config)
    with open_manager(tmp_path / "run" / "checkpoints") as manager:
        save(manager, state, Position(epoch=3, step_in_epoch=2, seed=11))
    template = _state(0, seed=1, **config)
    found, position = restore_state(tmp_path / "run" / "checkpoints", template)
    _assert_same(found, state)
    assert position == Position(3, 2, 11)
    shapes = jax.eval_shape(lambda: template)
    as_numpy, _ = restore_state(tmp_path / "run" / "checkpoints", shapes)
    _assert_same(as_numpy, state)
    assert {type(leaf) for leaf in jax.tree.leaves(as_numpy)} == {np.ndarray}


def test_a_replicated_state_goes_out_and_comes_in_for_any_number_of_devices(tmp_path):
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(AxisType.Auto,))
    replicated = NamedSharding(mesh, PartitionSpec())
    state = jax.device_put(_state(3), replicated)
    with open_manager(tmp_path) as manager:
        save(manager, state, Position(1, 3, 0))
    alone, _ = restore_state(tmp_path, _state(0, seed=1))
    _assert_same(alone, state)
    both, _ = restore_state(tmp_path, jax.device_put(_state(0, seed=1), replicated))
    _assert_same(both, state)
    assert both.params["classifier"]["bias"].sharding == replicated
    step = jax.pmap(lambda s, x: s.step + x, in_axes=(None, 0), out_axes=0)
    for restored in (alone, both):
        np.testing.assert_array_equal(step(restored, jnp.arange(2)), [3, 4])


def test_keeps_the_latest_two_and_the_best(tmp_path):
    kept = []
    with open_manager(tmp_path) as manager:
        for step, score in enumerate([None, 0.5, 0.4, None, None, 0.5, 0.1, float("nan"), 0.9]):
            metrics = None if score is None else {"mAP": score}
            save(manager, _state(step), Position(1, step, 0), metrics)
            manager.wait_until_finished()
            kept.append([entry.step for entry in describe(tmp_path)])
    # Of the two equal ones (1 and 5) the later is kept.
    assert kept == [[0], [0, 1], [1, 2], [1, 2, 3], [1, 3, 4], [4, 5], [5, 6], [5, 6, 7], [7, 8]]


def test_only_scores_of_the_same_evaluation_are_compared(tmp_path):
    rules = {SUBSET: 1, RULES: 1}, {SUBSET: 1, RULES: 4_294_967_295}
    kept = []
    runs = ((0, 0.9, {}), (1, 0.5, rules[0]), (2, 0.4, rules[0]), (3, 0.1, rules[1]))
    for step, score, evaluated in (*runs, (4, 0.05, rules[1]), (5, 0.02, rules[1])):
        with open_manager(tmp_path, evaluated) as manager:
            save(manager, _state(step), Position(1, step, 0), {"mAP": score, **evaluated})
        entries = describe(tmp_path)
        (best,) = (entry.step for entry in entries if entry.is_best)
        kept.append(([entry.step for entry in entries], best))
    assert kept == [
        ([0], 0),
        ([0, 1], 1),
        ([1, 2], 1),
        ([2, 3], 3),
        ([3, 4], 3),
        ([3, 4, 5], 3),
    ]


def test_the_best_is_remembered_over_a_restart(tmp_path):
    _save_all(tmp_path, (1, 0.8), (2, 0.2))
    _save_all(tmp_path, (3, None), (4, 0.3))
    assert [(e.step, e.is_latest, e.is_best) for e in describe(tmp_path)] == [
        (1, False, True),
        (3, False, False),
        (4, True, False),
    ]
    assert describe(tmp_path)[0].metrics == {"mAP": 0.8, "rank1": 0.5}
    for which, step in {"latest": 4, "best": 1, 1: 1, "4": 4}.items():
        assert find_step(tmp_path, which) == step
        found, position = restore_state(tmp_path, _state(0), which)
        _assert_same(found, _state(step, seed=step))
        assert position.step_in_epoch == step


def test_a_step_is_stored_once_and_may_get_its_scores_later(tmp_path):
    _save_all(tmp_path, (4, None))
    assert [e.is_best for e in describe(tmp_path)] == [False]
    with open_manager(tmp_path) as manager:
        assert not save(manager, _state(4, seed=4), Position(1, 4, 0), {"mAP": 0.7})
        assert save(manager, _state(5, seed=5), Position(1, 5, 0), {"mAP": 0.6})
        assert not save(manager, _state(5, seed=5), Position(1, 5, 0))
    assert [(e.step, e.metrics.get("mAP"), e.is_best) for e in describe(tmp_path)] == [
        (4, 0.7, True),
        (5, 0.6, False),
    ]


def test_saving_behind_a_later_step_is_refused(tmp_path):
    _save_all(tmp_path, (9, None))
    with (
        open_manager(tmp_path) as manager,
        pytest.raises(UserError, match="found a checkpoint of step 9, cannot save step 3"),
    ):
        save(manager, _state(3), Position(1, 3, 0))


def test_saved_is_the_state_before_the_donated_step(tmp_path):
    """Steps that overwrite the donated buffers while Orbax still writes."""
    params = {"backbone": jnp.zeros((512, 1024))}
    state = State(jnp.int32(0), params, {}, {"trace": jnp.zeros((512, 1024))})
    shapes = jax.eval_shape(lambda s: s, state)
    step = jax.pmap(
        lambda state, one: jax.tree.map(lambda x: x + one.astype(x.dtype), state),
        in_axes=(None, 0),
        out_axes=None,
        donate_argnums=0,
    )
    one = jnp.ones(2)
    with open_manager(tmp_path) as manager:
        for _ in range(4):
            before = state = step(state, one)
            saved = int(state.step)
            save(manager, state, Position(1, saved, 0), {"mAP": float(saved)})
            for _ in range(3):
                state = step(state, one)
            assert before.params["backbone"].is_deleted()
            manager.wait_until_finished()
            found, _ = restore_state(tmp_path, shapes, saved)
            for leaf in jax.tree.leaves(found):
                np.testing.assert_array_equal(leaf, np.full(leaf.shape, saved))


def test_only_the_model_is_restored_for_evaluation(tmp_path):
    _save_all(tmp_path, (1, 0.8), (2, 0.2))
    for options, step in (((), 2), (("latest",), 2), (("best",), 1)):
        found, passed = restore_model(tmp_path, _variables(_state(0)), *options)
        _assert_same(found, _variables(_state(step, seed=step)))
        assert passed == []


def test_a_run_starts_from_anothers_weights_with_its_own_classifier(tmp_path):
    _save_all(tmp_path, (1, None))
    ours = _variables(_state(0, identities=3))
    found, passed = restore_model(tmp_path, ours, "latest", optional=("classifier",))
    theirs = _state(1, seed=1)
    _assert_same(found["params"]["classifier"], ours["params"]["classifier"])
    _assert_same(found["params"]["backbone"], theirs.params["backbone"])
    _assert_same(found["batch_stats"], theirs.batch_stats)
    assert passed == [
        "params/classifier/bias: found [5] float32, expected [3] float32",
        "params/classifier/kernel: found [16, 5] float32, expected [16, 3] float32",
    ]
    without = {**ours, "params": {k: v for k, v in ours["params"].items() if k != "classifier"}}
    found, passed = restore_model(tmp_path, without, "latest", optional=("classifier",))
    assert set(found["params"]) == {"backbone", "embedding"}
    assert passed[0] == "params/classifier/bias: found [5] float32, expected nothing"


def test_misfits_are_named(tmp_path):
    _save_all(tmp_path, (1, None))
    other = _state(0, identities=3)
    other.params["backbone"]["conv2"] = {"kernel": jnp.zeros((3, 3))}
    del other.params["backbone"]["bn1"]
    other.params["embedding"]["kernel"] = jnp.zeros((8, 16))
    with pytest.raises(UserError) as caught:
        restore_model(tmp_path, _variables(other), "latest", optional=("classifier",))
    first, *lines = str(caught.value).splitlines()
    assert first.startswith(f"{tmp_path / '1'}: does not fit this config")
    assert sorted(lines) == [
        "params/backbone/bn1/scale: found [8] float32, expected nothing",
        "params/backbone/conv2/kernel: found nothing, expected [3, 3] float32",
        "params/embedding/kernel: found [8, 16] bfloat16, expected [8, 16] float32",
    ]
    with pytest.raises(UserError, match="params/classifier/bias: found"):
        restore_model(tmp_path, _variables(_state(0, identities=3)), "latest")
    with pytest.raises(UserError, match="opt_state/"):
        restore_state(tmp_path, _state(0, name="adam"))


@pytest.mark.parametrize("exists", [True, False])
def test_no_checkpoint(tmp_path, exists):
    directory = tmp_path / "checkpoints"
    if exists:
        directory.mkdir()
    assert describe(directory) == []
    for which in ("latest", "best", 3):
        with pytest.raises(UserError, match=f"^{directory}: found no checkpoint, expected"):
            restore_state(directory, _state(0), which)
    assert directory.exists() == exists


def test_no_such_checkpoint(tmp_path):
    _save_all(tmp_path, (1, None), (2, None))
    with pytest.raises(UserError, match=r"no checkpoint 'best' \(none was evaluated\).*: 1, 2$"):
        find_step(tmp_path, "best")
    with pytest.raises(UserError, match=r"no checkpoint 7, expected one of: 1, 2$"):
        find_step(tmp_path, 7)


def test_a_flipped_bit_is_reported(tmp_path):
    _save_all(tmp_path, (1, 0.9), (2, 0.1))
    flip_a_bit(tmp_path / "2")
    match = rf"^{tmp_path / '2'}: damaged checkpoint \(.*\); name another step: 1$"
    with pytest.raises(UserError, match=match):
        restore_model(tmp_path, _variables(_state(0)), "latest")
    restore_state(tmp_path, _state(0), 1)


@pytest.mark.parametrize("item", ["contents", "model", "training", "position"])
def test_a_missing_part_is_reported(tmp_path, item):
    _save_all(tmp_path, (1, None))
    for file in sorted((tmp_path / "1" / item).rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (tmp_path / "1" / item).rmdir()
    with pytest.raises(UserError, match=r"damaged checkpoint .*; no other step is stored$"):
        restore_state(tmp_path, _state(0))


def test_reading_does_not_disturb_the_run_that_writes(tmp_path):
    unfinished = tmp_path / "5.orbax-checkpoint-tmp"
    _save_all(tmp_path, (4, None))
    unfinished.mkdir()
    assert [e.step for e in describe(tmp_path)] == [4]
    restore_state(tmp_path, _state(0))
    assert unfinished.exists()
    with open_manager(tmp_path) as manager:
        save(manager, _state(5), Position(1, 5, 0))
    assert not unfinished.exists()


_ENDLESS_RUN = """
import itertools, sys
import numpy as np
from stf_jax.data.sampling import Position
from stf_jax.run.checkpoint import open_manager, save, describe
manager = open_manager(sys.argv[1])
start = max((e.step for e in describe(sys.argv[1])), default=0) + 1
for step in itertools.count(start):
    tree = {name: np.full((64, 512), step, np.float32) for name in ("a", "b", "c")}
    state = {"step": np.int32(step), "params": tree, "opt_state": dict(tree)}
    save(manager, state, Position(1, step, 0), {"mAP": 1 / step} if step % 2 else None)
    print(step, flush=True)
"""


def test_a_killed_run_leaves_the_last_whole_step(tmp_path):
    """SIGKILL at different moments of writing; each start resumes after the one before."""
    root = str(Path(stf_jax.__file__).parents[1])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": root}
    last = 0
    for kill_after in (0.0, 0.007, 0.021):
        with subprocess.Popen(
            [sys.executable, "-c", _ENDLESS_RUN, str(tmp_path)],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        ) as process:
            assert process.stdout is not None
            for _ in range(4):
                started = int(process.stdout.readline())
            time.sleep(kill_after)
            process.send_signal(signal.SIGKILL)
            started = max([started, *map(int, process.stdout.read().split())])
        template = {
            "step": jax.ShapeDtypeStruct((), np.int32),
            "params": {n: jax.ShapeDtypeStruct((64, 512), np.float32) for n in ("a", "b", "c")},
        }
        template["opt_state"] = dict(template["params"])
        state, position = restore_state(tmp_path, template)
        step = position.step_in_epoch
        # save() waits for the save before it, so only the last one may be missing.
        assert last < step
        assert started - 1 <= step <= started + 1
        for leaf in jax.tree.leaves(state):
            np.testing.assert_array_equal(leaf, np.full(leaf.shape, step))
        best = [e for e in describe(tmp_path) if e.is_best]
        assert [e.step for e in best] == [1]
        restore_state(tmp_path, template, "best")
        last = step


def test_optax_states_keep_their_types(tmp_path):
    state = _state(1, name="adam")
    with open_manager(tmp_path) as manager:
        save(manager, state, Position(1, 1, 0))
    found, _ = restore_state(tmp_path, _state(0, name="adam"))
    counts = optax.tree.get_all_with_path(found.opt_state, "count")
    assert counts == optax.tree.get_all_with_path(state.opt_state, "count")
    assert len(counts) == 3
