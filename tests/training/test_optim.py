from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stf_jax.config import Config, OptimizerConfig, changed
from stf_jax.errors import UserError
from stf_jax.training.optim import make_optimizer, parameter_groups

GROUP_OF = {
    "backbone": "backbone",
    "embedding": "rest",
    "relation": "rest",
    "classifier": "classifier",
}
RATES = {"lr_backbone": 0.01, "lr_rest": 0.03, "lr_classifier": 0.1}
STEPS_PER_EPOCH = 4


def _params(rng):
    shapes = {"backbone": (3, 2), "embedding": (2, 4), "relation": (4,), "classifier": (4, 5)}
    return {name: {"kernel": rng.normal(size=shape)} for name, shape in shapes.items()}


def _gradients(rng, params, steps):
    return [jax.tree.map(lambda p: rng.normal(size=p.shape), params) for _ in range(steps)]


def _run(config, params, gradients, total_steps=100):
    """Parameters and optimiser state after each step of our optimiser, under jit, in float64."""
    with jax.enable_x64(True):
        return _run_jitted(config, params, gradients, total_steps)


def _run_jitted(config, params, gradients, total_steps):
    params = jax.tree.map(jnp.asarray, params)
    config = OptimizerConfig(**config)
    optimizer, schedules = make_optimizer(config, STEPS_PER_EPOCH, total_steps, params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state: Any = optimizer.init(params)
    history = [(params, state)]
    for gradient in gradients:
        params, state = step(params, state, jax.tree.map(jnp.asarray, gradient))
        history.append((params, state))
    return history, schedules


def _sgd_as_torch(params, gradients, rate_of, *, momentum=0.9, nesterov=True, weight_decay=5e-4):
    """The update rule in torch.optim.SGD's documentation, parameter by parameter, in float64."""
    params = {name: value["kernel"].copy() for name, value in params.items()}
    buffers = {}
    history = [{n: v.copy() for n, v in params.items()}]
    for step, gradient in enumerate(gradients):
        for name, value in params.items():
            g = gradient[name]["kernel"] + weight_decay * value
            if momentum:
                buffers[name] = momentum * buffers[name] + g if name in buffers else g
                g = g + momentum * buffers[name] if nesterov else buffers[name]
            params[name] = value - rate_of(GROUP_OF[name], step) * g
        history.append({n: v.copy() for n, v in params.items()})
    return history


def _adam_as_torch(params, gradients, rate_of, *, weight_decay, decoupled):
    """The update rules in torch.optim.Adam's and AdamW's documentation."""
    params = {name: value["kernel"].copy() for name, value in params.items()}
    first = {n: np.zeros_like(v) for n, v in params.items()}
    second = {n: np.zeros_like(v) for n, v in params.items()}
    for step, gradient in enumerate(gradients):
        for name in params:
            rate = rate_of(GROUP_OF[name], step)
            g = gradient[name]["kernel"]
            if decoupled:
                params[name] = params[name] * (1 - rate * weight_decay)
            else:
                g = g + weight_decay * params[name]
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g * g
            m = first[name] / (1 - 0.9 ** (step + 1))
            v = second[name] / (1 - 0.999 ** (step + 1))
            params[name] = params[name] - rate * m / (np.sqrt(v) + 1e-8)
    return params


def _assert_params(found, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name]["kernel"], value, rtol=1e-9, atol=1e-12)


def _staircase(group, step, epochs=(2, 4), factor=0.2):
    epoch = step // STEPS_PER_EPOCH + 1
    return RATES[f"lr_{group}"] * factor ** sum(epoch >= e for e in epochs)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"nesterov": False},
        {"momentum": 0.0, "nesterov": False},
        {"weight_decay": 0.0},
        {"weight_decay": 0.3, "momentum": 0.5},
    ],
)
def test_sgd_is_torchs_through_two_changes_of_the_rate(settings):
    rng = np.random.default_rng(0)
    params = _params(rng)
    gradients = _gradients(rng, params, 14)
    history, _ = _run({**RATES, **settings, "staircase_epochs": (2, 4)}, params, gradients)
    expected = _sgd_as_torch(params, gradients, _staircase, **settings)
    for (found, _), wanted in zip(history, expected, strict=True):
        _assert_params(found, wanted)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_is_torchs(name):
    rng = np.random.default_rng(1)
    params = _params(rng)
    gradients = _gradients(rng, params, 10)
    config = {**RATES, "name": name, "weight_decay": 0.1, "staircase_epochs": (2, 4)}
    history, _ = _run(config, params, gradients)
    expected = _adam_as_torch(
        params, gradients, _staircase, weight_decay=0.1, decoupled=name == "adamw"
    )
    _assert_params(history[-1][0], expected)


def test_staircase_drops_at_the_first_step_of_its_epochs():
    schedules = make_optimizer(OptimizerConfig(), 10, 2000, _params(np.random.default_rng(0)))[1]
    for group, rate in {"backbone": 1e-4, "classifier": 1e-3, "rest": 1e-4}.items():
        for epoch, drops in [(15, 0), (30, 1), (40, 2), (50, 3), (60, 4), (70, 5)]:
            first_step = (epoch - 1) * 10
            before, after = schedules[group](first_step - 1), schedules[group](first_step)
            np.testing.assert_allclose(before, rate * 0.2**drops, rtol=1e-6)
            np.testing.assert_allclose(after, rate * 0.2 ** (drops + 1), rtol=1e-6)
        np.testing.assert_allclose(schedules[group](0), rate, rtol=1e-6)
        np.testing.assert_allclose(schedules[group](1999), rate * 0.2**6, rtol=1e-6)


def test_no_staircase_epochs_is_a_constant_rate():
    config = OptimizerConfig(staircase_epochs=())
    schedules = make_optimizer(config, 10, 100, _params(np.random.default_rng(0)))[1]
    np.testing.assert_allclose(schedules["classifier"](jnp.arange(5)), np.full(5, 1e-3), rtol=1e-6)


def test_cosine_after_warm_up():
    config = OptimizerConfig(schedule="cosine", warmup_epochs=1.5, lr_rest=2.0)
    schedule = make_optimizer(config, 4, 26, _params(np.random.default_rng(0)))[1]["rest"]
    found = np.array([schedule(step) for step in range(30)])
    np.testing.assert_allclose(found[:6], 2.0 * np.arange(1, 7) / 6, rtol=1e-6)
    np.testing.assert_allclose(found[6], 2.0, rtol=1e-6)
    np.testing.assert_allclose(found[16], 1.0, rtol=1e-6)  # half way from 6 to 26
    np.testing.assert_allclose(found[25], 1 + np.cos(np.pi * 19 / 20), rtol=1e-4)
    assert (np.diff(found[6:27]) < 0).all()
    assert (np.abs(found[26:]) < 1e-6).all()


def test_warm_up_of_a_staircase():
    config = OptimizerConfig(warmup_epochs=2, staircase_epochs=(3,), lr_rest=1.0)
    schedule = make_optimizer(config, 2, 10, _params(np.random.default_rng(0)))[1]["rest"]
    found = [float(schedule(step)) for step in range(6)]
    np.testing.assert_allclose(found, [0.25, 0.5, 0.75, 1.0, 0.2, 0.2], rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_classifier_only_epochs_leave_the_others_untouched(name):
    rng = np.random.default_rng(2)
    params = _params(rng)
    frozen_steps = 6
    gradients = _gradients(rng, params, frozen_steps + 4)
    for gradient in gradients[:frozen_steps]:
        gradient["backbone"]["kernel"][:] = np.nan  # must not be looked at
    config = {
        **RATES,
        "name": name,
        "classifier_only_epochs": 1.5,
        "classifier_only_lr": 0.2,
        "staircase_epochs": (),
        "clip_norm": 1e6,
    }
    history, schedules = _run(config, params, gradients)
    first_params, first_state = history[0]
    for found, state in history[: frozen_steps + 1]:
        for group in ("backbone", "embedding", "relation"):
            np.testing.assert_array_equal(found[group]["kernel"], first_params[group]["kernel"])
        for group in ("backbone", "rest"):
            jax.tree.map(
                np.testing.assert_array_equal,
                state.groups.inner_states[group],
                first_state.groups.inner_states[group],
            )
    # Behind it, the others train as if they had just begun.
    fresh, _ = _run({**config, "classifier_only_epochs": 0}, params, gradients[frozen_steps:])
    for group in ("backbone", "embedding", "relation"):
        np.testing.assert_allclose(
            history[-1][0][group]["kernel"], fresh[-1][0][group]["kernel"], rtol=1e-12
        )
    found = [[float(schedules[g](s)) for s in (0, 5, 6)] for g in ("backbone", "classifier")]
    np.testing.assert_allclose(found, [[0, 0, 0.01], [0.2, 0.2, 0.1]], rtol=1e-6)


def test_classifier_learns_at_its_own_rate_in_the_classifier_only_epochs():
    rng = np.random.default_rng(3)
    params = _params(rng)
    gradients = _gradients(rng, params, 7)
    config = {**RATES, "classifier_only_epochs": 1, "staircase_epochs": (2,)}

    def rate_of(group, step):
        if step < STEPS_PER_EPOCH:
            return 0.1 if group == "classifier" else 0.0
        return RATES[f"lr_{group}"] * 0.2

    history, _ = _run(config, params, gradients)
    expected = _sgd_as_torch(params, gradients, rate_of)
    for (found, _), wanted in zip(history, expected, strict=True):
        _assert_params({"classifier": found["classifier"]}, {"classifier": wanted["classifier"]})


def test_warm_up_begins_behind_the_classifier_only_epochs():
    config = OptimizerConfig(
        classifier_only_epochs=1, warmup_epochs=1, lr_rest=1.0, schedule="cosine"
    )
    schedule = make_optimizer(config, 4, 16, _params(np.random.default_rng(0)))[1]["rest"]
    found = [float(schedule(step)) for step in (3, 4, 7, 8, 12)]
    np.testing.assert_allclose(found, [0, 0.25, 1, 1, 0.5], rtol=1e-6)


def test_clipping_scales_the_whole_gradient_before_the_weight_decay():
    rng = np.random.default_rng(4)
    params = _params(rng)
    gradients = _gradients(rng, params, 5)
    gradients[2] = jax.tree.map(lambda g: 1e-3 * g, gradients[2])  # short enough to be let be
    config = {**RATES, "clip_norm": 0.5, "staircase_epochs": ()}
    history, _ = _run(config, params, gradients)

    def clip(gradient):
        norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
        return jax.tree.map(lambda g: g * min(1, 0.5 / norm), gradient)

    expected = _sgd_as_torch(
        params, [clip(g) for g in gradients], lambda group, step: RATES[f"lr_{group}"]
    )
    _assert_params(history[-1][0], expected[-1])


def test_clipping_looks_only_at_what_learns():
    rng = np.random.default_rng(5)
    params = _params(rng)
    gradients = _gradients(rng, params, 1)
    other = [{**gradients[0], "backbone": {"kernel": 1e3 * gradients[0]["backbone"]["kernel"]}}]
    config = {"clip_norm": 0.5, "classifier_only_epochs": 1}
    found = [_run(config, params, g)[0][-1][0]["classifier"]["kernel"] for g in (gradients, other)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("every", [2, 3])
def test_accumulation_is_the_mean_gradient_with_epochs_still_epochs(every):
    rng = np.random.default_rng(6)
    params = _params(rng)
    gradients = _gradients(rng, params, 24)
    # Epochs of 4 steps: for every = 3 the second epoch begins within a group of gradients.
    config = {**RATES, "accumulate": every, "staircase_epochs": (2, 4)}
    history, _ = _run(config, params, gradients)
    means = [
        jax.tree.map(lambda *g: np.mean(g, 0), *gradients[i : i + every])
        for i in range(0, 24, every)
    ]
    expected = _sgd_as_torch(
        params, means, lambda group, update: _staircase(group, update * every + every - 1)
    )
    for step, (found, _) in enumerate(history):
        _assert_params(found, expected[step // every])


def test_accumulation_counts_classifier_only_epochs_in_training_steps():
    rng = np.random.default_rng(7)
    params = _params(rng)
    gradients = _gradients(rng, params, 9)
    config = {**RATES, "accumulate": 2, "classifier_only_epochs": 1.25}  # 5 steps
    history, schedules = _run(config, params, gradients)
    first = history[0][0]["backbone"]["kernel"]
    moved = [bool((p["backbone"]["kernel"] != first).any()) for p, _ in history]
    assert moved.index(True) == 6  # the update of steps 5 and 6 comes with step 6 (index 5)
    assert float(schedules["backbone"](4)) == 0
    assert float(schedules["backbone"](5)) > 0


def test_float64_parameters_stay_float64():
    with jax.enable_x64(True):
        params = {"backbone": jnp.ones(3), "classifier": jnp.ones(2)}
        for accumulate in (1, 2):
            optimizer, _ = make_optimizer(OptimizerConfig(accumulate=accumulate), 4, 8, params)
            state = optimizer.init(params)
            updates, state = optimizer.update(params, state, params)
            assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype("float64")}
            again = jax.tree.map(lambda x: x.dtype, optimizer.update(params, state, params)[1])
            assert again == jax.tree.map(lambda x: x.dtype, state)


def test_the_backbone_and_the_classifier_are_groups_of_their_own():
    rest = ("embedding", "intra_attention", "relation", "stage_attention", "stage_gate", "neck")
    params = {name: {"w": 0} for name in ("backbone", "classifier", *rest)}
    assert parameter_groups(params) == {
        "backbone": {"w": "backbone"},
        "classifier": {"w": "classifier"},
        **{name: {"w": "rest"} for name in rest},
    }


def test_a_parameter_in_no_group_is_an_error():
    with pytest.raises(ValueError, match=r"parameters head: in no optimiser group"):
        make_optimizer(OptimizerConfig(), 4, 8, {"backbone": jnp.ones(3), "head": jnp.ones(2)})


def test_classifier_only_epochs_need_a_classifier():
    with pytest.raises(UserError, match=r"optimizer\.classifier_only_epochs"):
        make_optimizer(OptimizerConfig(classifier_only_epochs=1), 4, 8, {"backbone": jnp.ones(3)})


def test_settings_come_from_the_section_of_a_config():
    values = {"lr_rest": 0.5, "staircase_epochs": (2,), "accumulate": 2}
    values = {f"optimizer.{key}": value for key, value in values.items()}
    config = changed(Config(), values).optimizer
    schedules = make_optimizer(config, 4, 8, {"backbone": jnp.ones(3)})[1]
    np.testing.assert_allclose([schedules["rest"](s) for s in (3, 4)], [0.5, 0.1], rtol=1e-6)
