from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from stf_jax.models.fusion import (
    Embedding,
    IntraAttention,
    RelationNetwork,
    StageAttention,
    attention_weights,
    fuse_frames,
    normalise_over_time,
    pool_stripes,
)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def apply(module, *args, **kwargs) -> Any:
    return module.apply(*args, **kwargs)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("num_stripes", [1, 2, 3])
def test_stripes_leave_the_rows_that_do_not_divide(num_stripes):
    maps = normal(2, 7, 3, 4)
    found = pool_stripes(jnp.asarray(maps), num_stripes)
    rows = 7 // num_stripes
    for s in range(num_stripes):
        expected = maps[:, s * rows : (s + 1) * rows].mean((1, 2))
        np.testing.assert_allclose(found[:, s], expected, rtol=1e-5, atol=1e-6)
    found = pool_stripes(jnp.asarray(maps), num_stripes, "max")
    for s in range(num_stripes):
        np.testing.assert_array_equal(found[:, s], maps[:, s * rows : (s + 1) * rows].max((1, 2)))


def test_more_stripes_than_rows_is_an_error():
    with pytest.raises(ValueError, match="2 rows has no 3 stripes"):
        pool_stripes(jnp.zeros((1, 2, 2, 4)), 3)


def test_frames_are_fused_by_their_weights():
    b, t = 3, 4
    maps, weights = normal(7, 2, 3, 5), normal(b, t, seed=1)
    tracklet = np.array([2, 0, 3, 0, 2, 1, 3])  # 3: padding
    slot = np.array([0, 3, 2, 1, 2, 0, 0])
    expected = np.zeros((b, 2, 3, 5))
    for m in range(7):
        if tracklet[m] < b:
            expected[tracklet[m]] += weights[tracklet[m], slot[m]] * maps[m]
    found = fuse_frames(*map(jnp.asarray, (maps, weights, tracklet, slot)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_weights_are_normalised_over_real_frames():
    raw = jnp.array([[1.0, 2.0, 5.0], [4.0, 4.0, 4.0], [1.0, 1.0, 1.0]])
    mask = jnp.array([[True, True, False], [True, True, True], [False, False, False]])
    found = normalise_over_time(raw, mask)
    np.testing.assert_allclose(found, [[1 / 3, 2 / 3, 0], [1 / 3] * 3, [0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("bounded", [True, False])
def test_attention_weights_follow_their_equations(bounded):
    scores = np.array([[3.0, -1.0, 0.5], [900.0, 899.0, 5000.0], [1.0, 2.0, 3.0]])
    mask = np.array([[True, True, True], [True, True, False], [False, False, False]])
    found = attention_weights(jnp.asarray(scores), jnp.asarray(mask), bounded=bounded)
    expected = np.zeros((3, 3))
    for b in range(2):
        kept = scores[b][mask[b]]
        raw = sigmoid(np.maximum(kept, 0)) if bounded else np.exp(kept - kept.max())
        expected[b][mask[b]] = raw / raw.sum()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if bounded:
        assert found[0].max() < 2 * found[0].min()


def test_the_softmax_does_not_go_to_sleep():
    """Large scores leave the published form nothing to learn; the softmax sees differences only."""
    mask, chosen = jnp.ones((1, 3), bool), jnp.array([[1.0, 0.0, 0.0]])

    def slope(offset, bounded):
        scores = jnp.array([[0.2, 0.1, -0.3]]) + offset
        weigh = lambda s: (chosen * attention_weights(s, mask, bounded=bounded)).sum()  # noqa: E731
        return float(jnp.abs(jax.grad(weigh)(scores)).max())

    assert slope(40.0, True) == 0
    assert slope(40.0, False) == pytest.approx(slope(0.0, False), rel=1e-4)
    assert slope(0.0, False) > 0.1


def test_gradients_are_finite_for_tracklets_without_frames():
    mask = jnp.array([[False, False], [True, False]])
    grads = jax.grad(lambda s: attention_weights(s, mask, bounded=False)[1, 0])(jnp.ones((2, 2)))
    np.testing.assert_array_equal(grads, 0)


def random_like(module, *args, seed: int = 4, **kwargs):
    shapes = jax.eval_shape(partial(module.init, **kwargs), jax.random.key(0), *args)
    r = np.random.RandomState(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(r.standard_normal(leaf.shape) / np.sqrt(leaf.shape[0])), shapes
    )


def relation_by_loops(params, x, counted, averaged=False):
    """The equation, pair by pair, with the concatenation; averaged: as of four frames j."""
    dense = lambda name, v: v @ params[name]["kernel"] + params[name]["bias"]  # noqa: E731
    scores = np.zeros(x.shape[:2])
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            total = np.zeros(512)
            for j in np.flatnonzero(counted[b]):
                v = np.concatenate([x[b, j], x[b, i]])
                for k in range(4):
                    v = np.maximum(dense(f"g_{k}", v), 0)
                total += v
            if averaged:
                total *= 4 / np.count_nonzero(counted[b])
            v = np.maximum(dense("f_0", total), 0)
            scores[b, i] = dense("f_1", v)[0]
    return scores


@pytest.mark.parametrize("averaged", [False, True])
def test_relation_network_is_the_sum_over_pairs(averaged):
    """Or the mean over the frames that count: neither depends on the slots that are empty."""
    x = normal(3, 6, 6)
    counted = np.arange(6)[None, :] < np.array([6, 3, 1])[:, None]
    counted[1] = counted[1, [0, 4, 1, 5, 2, 3]]  # and not only the last slots are empty
    net = RelationNetwork(averaged=averaged)
    variables = random_like(net, x, counted)
    found = apply(net, variables, jnp.asarray(x), jnp.asarray(counted))
    params = jax.tree.map(np.asarray, variables["params"])
    expected = relation_by_loops(params, x.astype(np.float64), counted, averaged)
    assert np.ptp(expected) > 1e-3  # not asleep
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def largest_array(jaxpr) -> int:
    """Elements of the largest array in a program, inner programs included."""
    sizes = [var.aval.size for eqn in jaxpr.eqns for var in eqn.outvars]
    for eqn in jaxpr.eqns:
        for inner in jax.tree.leaves(
            eqn.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                sizes.append(largest_array(inner))
    return max(sizes, default=0)


def test_relation_network_never_builds_the_concatenated_pairs():
    """No T x T x 2SC array, forward or backward: nothing exceeds g's first layer on all pairs."""
    b, t, d = 3, 40, 600
    x, counted = jnp.zeros((b, t, d)), jnp.ones((b, t), bool)
    net = RelationNetwork()
    variables = random_like(net, x, counted)

    def loss(variables, x):
        return apply(net, variables, x, counted).sum()

    program = jax.make_jaxpr(jax.value_and_grad(loss, argnums=(0, 1)))(variables, x)
    limit = b * t * t * 768
    assert limit < b * t * t * 2 * d
    assert largest_array(program.jaxpr) == limit


def test_embedding_and_intra_attention_are_the_equations():
    pooled = normal(5, 2, 6)
    embed = Embedding(num_stripes=2, embed_dim=3)
    variables = random_like(embed, pooled, None, train=False)
    variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])
    found = apply(embed, variables, jnp.asarray(pooled), None, train=False)
    params, stats = jax.tree.map(np.asarray, (variables["params"], variables["batch_stats"]))

    def norm(y, p, s):
        return (y - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]

    for s in (0, 1):
        y = pooled[:, s] @ params[f"conv_{s}"]["kernel"] + params[f"conv_{s}"]["bias"]
        expected = norm(y, params[f"bn_{s}"], stats[f"bn_{s}"])
        np.testing.assert_allclose(found[:, s], expected, rtol=1e-4, atol=1e-5)

    x, mask = normal(5, 6, seed=1), jnp.ones(5, bool)
    intra = IntraAttention()
    variables = random_like(intra, x, mask, train=False, seed=6)
    variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])
    found = apply(intra, variables, jnp.asarray(x), mask, train=False)
    params, stats = jax.tree.map(np.asarray, (variables["params"], variables["batch_stats"]))
    y = x @ params["conv"]["kernel"] + params["conv"]["bias"]
    y = norm(y, params["bn"], stats["bn"])
    assert np.ptp(np.maximum(y, 0)) > 0.1  # not asleep
    np.testing.assert_allclose(found, y[:, 0], rtol=1e-4, atol=1e-5)


def test_stage_attention_starts_as_the_mean_and_learns():
    features = jnp.asarray(normal(3, 4, 2, 5))
    net = StageAttention()
    variables = net.init(jax.random.key(0), features)
    np.testing.assert_array_equal(
        apply(net, variables, features), np.full((4, 3), np.float32(1 / 3))
    )
    kernel = normal(10, 1, seed=2)
    variables = {"params": {"score": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}}
    scores = np.asarray(features).reshape(3, 4, 10) @ kernel
    expected = np.exp(scores[..., 0].T)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(apply(net, variables, features), expected, rtol=1e-5)


def test_gradients_match_differences():
    """Of the relation network by its input: moving all its weights crosses a ReLU's kink."""
    with jax.enable_x64(True):
        x = jnp.asarray(normal(1, 3, 4), jnp.float64)
        counted = jnp.array([[True, True, False]])
        net = RelationNetwork(dtype=jnp.float64, param_dtype=jnp.float64)
        variables = random_like(net, x, counted)
        scores: Any = jax.jit(net.apply)
        assert np.ptp(scores(variables, x, counted)) > 1e-3  # not asleep
        check_grads(lambda x: scores(variables, x, counted), (x,), 1, ["rev"], rtol=1e-5)

        stage = StageAttention(dtype=jnp.float64, param_dtype=jnp.float64)
        features = jnp.asarray(normal(2, 2, 1, 3), jnp.float64)
        variables = random_like(stage, features)
        check_grads(jax.jit(stage.apply), (variables, features), 1, ["rev"], rtol=1e-5)
