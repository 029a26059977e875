from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_jax.models.batch_norm import BatchNorm, masked_moments, normalise, two_sums

C = 3


def data(n: int, seed: int = 0, middle: tuple[int, ...] = (2,)) -> np.ndarray:
    r = np.random.RandomState(seed)
    return (r.standard_normal((n, *middle, C)) * [1, 0.1, 5] + [0, 3, -20]).astype(np.float32)


def variables(seed: int = 1) -> dict[str, dict[str, np.ndarray]]:
    r = np.random.RandomState(seed)
    draw = lambda low, high: r.uniform(low, high, C).astype(np.float32)  # noqa: E731
    return {
        "params": {"scale": draw(0.5, 2), "bias": draw(-1, 1)},
        "batch_stats": {"mean": draw(-1, 1), "var": draw(0.5, 2)},
    }


def on_device(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)


def train(x, mask, momentum=0.9, **fields) -> tuple[Any, Any]:
    return BatchNorm(momentum=momentum, **fields).apply(
        on_device(variables()), jnp.asarray(x), mask, train=True, mutable=["batch_stats"]
    )


@settings(deadline=None, max_examples=20)
@given(mask=st.lists(st.booleans(), min_size=5, max_size=5).filter(any), seed=st.integers(0, 99))
def test_training_is_the_formula_on_the_real_rows(mask, seed):
    mask = np.array(mask)
    x = data(5, seed)
    y, updated = train(np.where(mask[:, None, None], x, np.nan), jnp.asarray(mask))
    rows = x[mask].reshape(-1, C).astype(np.float64)
    old = variables()
    expected = (x[mask] - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    expected = expected * old["params"]["scale"] + old["params"]["bias"]
    np.testing.assert_allclose(np.asarray(y)[mask], expected, rtol=2e-4, atol=2e-4)
    # The running variance is unbiased, as PyTorch's.
    stats, before = updated["batch_stats"], old["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.9 * before["mean"] + 0.1 * rows.mean(0), rtol=1e-5)
    unbiased = rows.var(0, ddof=1)
    np.testing.assert_allclose(stats["var"], 0.9 * before["var"] + 0.1 * unbiased, rtol=1e-4)


def test_no_mask_means_every_row():
    x = data(4)
    y, updated = train(x, None)
    z, also = train(x, jnp.ones(4, bool))
    np.testing.assert_array_equal(y, z)
    jax.tree.map(np.testing.assert_array_equal, updated, also)


def test_one_value_has_no_unbiased_variance_and_counts_as_zero():
    y, updated = train(data(1, middle=()), jnp.ones(1, bool))
    np.testing.assert_allclose(y[0], variables()["params"]["bias"])
    var = variables()["batch_stats"]["var"]
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 * var, rtol=1e-6)


def test_without_a_real_row_the_statistics_stay():
    y, updated = train(np.full((3, C), np.nan, np.float32), jnp.zeros(3, bool))
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables()["batch_stats"])
    assert y.shape == (3, C)


def test_evaluation_uses_the_running_statistics():
    x, v = data(4), variables()
    y = BatchNorm().apply(on_device(v), jnp.asarray(x), None, train=False)
    stats = v["batch_stats"]
    expected = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    expected = expected * v["params"]["scale"] + v["params"]["bias"]
    np.testing.assert_allclose(np.asarray(y), expected, rtol=1e-5, atol=1e-5)
    residual = data(4, seed=1)
    y = BatchNorm(relu=True).apply(
        on_device(v), jnp.asarray(x), None, jnp.asarray(residual), train=False
    )
    np.testing.assert_allclose(
        np.asarray(y), np.maximum(expected + residual, 0), rtol=1e-5, atol=1e-5
    )


def test_one_reduction_for_two_sums_gives_both(monkeypatch):
    """The way of GPUs, computed here: `platform_dependent` takes what has no platform's name."""
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda *arguments, cpu, default: default(*arguments)
    )
    r = np.random.RandomState(0)
    a, b = r.standard_normal((2, 7, 5, C)).astype(np.float32)
    found = two_sums(jnp.asarray(a), jnp.asarray(b))
    for sums, rows in zip(found, (a, b), strict=True):
        np.testing.assert_allclose(sums, rows.sum((0, 1)), rtol=1e-5, atol=1e-5)


def test_a_large_mean_costs_no_variance():
    r = np.random.RandomState(0)
    x = (1000 + 0.1 * r.standard_normal((64, 50, 2))).astype(np.float32)
    wide = x.astype(np.float64)
    padded = np.concatenate([np.zeros((1, 50, 2), np.float32), x])
    for rows, mask in ((x, None), (padded, jnp.arange(65) > 0)):
        mean, var, count = masked_moments(jnp.asarray(rows), mask)
        np.testing.assert_allclose(mean, wide.mean((0, 1)), rtol=1e-7)
        np.testing.assert_allclose(var, wide.var((0, 1)), rtol=1e-3)
        assert count == 64 * 50


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("ceiling", [None, np.inf, 0.7])
@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_is_that_of_the_formula(masked, ceiling, added):
    """Of outputs (padded rows' too) and moments, for arbitrary cotangents; float64."""
    mask = jnp.array([True, False, True, True]) if masked else None

    def formula(x, residual, scale, bias):
        rows = (x if mask is None else x[np.array(mask)]).reshape(-1, C)
        mean, var = rows.mean(0), rows.var(0)
        y = (x - mean[None, None]) / jnp.sqrt(var + 1e-5)[None, None] * scale[None, None]
        y = y + bias[None, None] + (residual if added else 0)
        return y if ceiling is None else jnp.clip(y, 0, ceiling), mean, var

    def ours(x, residual, scale, bias):
        relu = ceiling is not None, np.inf if ceiling is None else ceiling
        given = (x, residual if added else None, mask, scale, bias)
        found: Any = normalise(*given, 1e-5, *relu, None)
        y, (mean, var, _) = found
        return y, mean, var

    with jax.enable_x64(True):
        r = np.random.RandomState(3)
        x, scale = data(4).astype(np.float64), r.uniform(-2, 2, C)
        arguments = x, r.standard_normal(x.shape), scale, r.standard_normal(C)
        found, pull = jax.vjp(ours, *map(jnp.asarray, arguments))
        expected, expected_pull = jax.vjp(formula, *map(jnp.asarray, arguments))
        cotangents = jax.tree.map(lambda leaf: jnp.asarray(r.standard_normal(leaf.shape)), found)
        close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
        jax.tree.map(close, found, expected)
        jax.tree.map(close, pull(cotangents), expected_pull(cotangents))


@pytest.mark.parametrize("counts", [(3, 1), (4, 0), (2, 2)])
def test_two_devices_with_unequal_counts_are_one_device(counts):
    """Outputs, statistics and gradients."""
    x = data(8)
    mask = np.array([i < counts[0] for i in range(4)] + [i < counts[1] for i in range(4)])
    x = np.where(mask[:, None, None], x, 1e6).astype(np.float32)
    weight = np.random.RandomState(2).standard_normal(x.shape).astype(np.float32)

    def loss(params, x, mask, weight, axis_name):
        y, updated = BatchNorm(axis_name=axis_name).apply(
            {**on_device(variables()), "params": params},
            x,
            mask,
            train=True,
            mutable=["batch_stats"],
        )
        y = jnp.where(mask[:, None, None], y, 0)
        return (y * weight).sum(), (y, updated["batch_stats"])

    gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
    params, x, mask, weight = on_device((variables()["params"], x, mask, weight))
    (of_params, of_x), (y, stats) = gradient(params, x, mask, weight, None)

    def one_share(params, x, mask, weight):
        (of_params, of_x), (y, stats) = gradient(params, x, mask, weight, "devices")
        return jax.lax.psum(of_params, "devices"), of_x, y, stats

    split = [a.reshape(2, 4, *a.shape[1:]) for a in (x, mask, weight)]
    step = jax.pmap(
        one_share, axis_name="devices", in_axes=(None, 0, 0, 0), devices=jax.devices()[:2]
    )
    psummed, of_x_split, y_split, stats_split = jax.device_get(step(params, *split))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((of_params, of_x, y, stats)))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)  # noqa: E731
    close(y_split.reshape(y.shape), y)
    close(of_x_split.reshape(x.shape), of_x)
    for d in (0, 1):
        jax.tree.map(lambda a, b, d=d: close(a[d], b), psummed, of_params)
        jax.tree.map(lambda a, b, d=d: close(a[d], b), stats_split, stats)


def test_gradients_match_differences():
    from jax.test_util import check_grads

    with jax.enable_x64(True):
        x = data(4).astype(np.float64)
        x[..., 2] /= 5
        mask = jnp.array([True, True, False, True])
        v = jax.tree.map(lambda a: a.astype(np.float64), variables())
        bn = BatchNorm(dtype=jnp.float64, param_dtype=jnp.float64)

        @jax.jit
        def f(params, x):
            y, _ = bn.apply({**v, "params": params}, x, mask, train=True, mutable=["batch_stats"])
            return jnp.where(mask[:, None, None], y, 0) ** 2

        check_grads(f, (v["params"], x), order=1, modes=["rev"], rtol=1e-5)


def test_bfloat16_keeps_float32_statistics():
    y, updated = train(data(4), None, dtype=jnp.bfloat16)
    assert y.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(updated))
