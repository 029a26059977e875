import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stf_jax.errors import UserError
from stf_jax.training import losses

smoothed_cross_entropy = jax.jit(losses.smoothed_cross_entropy)
batch_hard_triplet = jax.jit(losses.batch_hard_triplet, static_argnames=("distance", "margin"))


def _cross_entropy_by_hand(logits, labels, smoothing):
    """-sum target log p from the definition, one tracklet and stripe at a time, in float64."""
    logits = np.asarray(logits, np.float64)
    of_tracklet = []
    for row, label in zip(logits, labels, strict=True):
        if label < 0:
            continue
        total = 0.0
        for stripe in row:
            log_p = stripe - np.log(np.exp(stripe - stripe.max()).sum()) - stripe.max()
            target = np.full(len(stripe), smoothing / len(stripe))
            target[label] += 1 - smoothing
            total -= float(target @ log_p)
        of_tracklet.append(total)
    return np.mean(of_tracklet) if of_tracklet else 0.0


def _triplet_by_hand(features, labels, distance, margin):
    """The definition, in loops over Python numbers."""
    features = np.asarray(features, np.float64)

    def between(i, j):
        a, b = features[i], features[j]
        if distance == "euclidean":
            return float(np.sqrt(((a - b) ** 2).sum()))
        return float(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    losses = []
    real = [i for i, label in enumerate(labels) if label >= 0]
    for i in real:
        positives = [between(i, j) for j in real if j != i and labels[j] == labels[i]]
        negatives = [between(i, j) for j in real if labels[j] != labels[i]]
        if positives and negatives:
            gap = max(positives) - min(negatives)
            losses.append(np.log1p(np.exp(gap)) if margin == "soft" else max(0.0, margin + gap))
    return float(np.mean(losses)) if losses else 0.0


def _check_gradient(function, x, rng, directions=6):
    """Central differences along random directions, in float64."""
    gradient = jax.jit(jax.grad(function))(x)
    assert np.isfinite(gradient).all()
    for _ in range(directions):
        direction = rng.normal(size=x.shape)
        direction /= np.linalg.norm(direction)
        step = 1e-6
        numeric = (function(x + step * direction) - function(x - step * direction)) / (2 * step)
        np.testing.assert_allclose(np.vdot(gradient, direction), numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_is_its_definition(smoothing):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=4, size=(6, 3, 7)).astype(np.float32)
    labels = np.array([0, 6, -1, 3, 3, -1])
    loss = smoothed_cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
    np.testing.assert_allclose(loss, _cross_entropy_by_hand(logits, labels, smoothing), rtol=2e-6)
    assert loss.dtype == jnp.float32


def test_cross_entropy_of_equal_logits_is_known():
    loss = smoothed_cross_entropy(jnp.zeros((4, 2, 8)), jnp.array([1, 2, 3, 4]))
    np.testing.assert_allclose(loss, 2 * np.log(8), rtol=1e-6)


def test_cross_entropy_gradient():
    rng = np.random.default_rng(1)
    labels = jnp.array([2, -1, 0, 4])
    with jax.enable_x64(True):
        logits = jnp.asarray(rng.normal(size=(4, 2, 5)))
        _check_gradient(lambda x: smoothed_cross_entropy(x, labels), logits, rng)
        assert smoothed_cross_entropy(logits, labels).dtype == jnp.float64


def test_cross_entropy_ignores_empty_slots_whatever_is_in_them():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(3, 2, 5)).astype(np.float32)
    labels = np.array([4, 1, 0])
    wide = np.concatenate([logits, np.full((2, 2, 5), np.nan, np.float32)])
    function = jax.jit(jax.value_and_grad(losses.smoothed_cross_entropy))
    loss, gradient = function(jnp.asarray(logits), jnp.asarray(labels))
    loss_wide, gradient_wide = function(jnp.asarray(wide), jnp.append(labels, jnp.array([-1, -1])))
    np.testing.assert_allclose(loss_wide, loss, rtol=1e-6)
    np.testing.assert_allclose(gradient_wide[:3], gradient, rtol=1e-6)
    assert (gradient_wide[3:] == 0).all()
    nothing, gradient = function(jnp.asarray(logits), jnp.full(3, -1))
    assert nothing == 0
    assert (gradient == 0).all()


def test_cross_entropy_of_uneven_devices_averages_to_the_whole_batch():
    rng = np.random.default_rng(3)
    logits = jnp.asarray(rng.normal(size=(2, 3, 1, 5)).astype(np.float32))
    labels = jnp.array([[4, 1, 0], [2, -1, -1]])

    def on_device(logits, labels):
        count = jax.lax.pmean((labels >= 0).sum().astype(jnp.float32), "devices")
        return smoothed_cross_entropy(logits, labels, count=count)

    losses = jax.pmap(on_device, axis_name="devices")(logits, labels)
    whole = smoothed_cross_entropy(logits.reshape(6, 1, 5), labels.reshape(6))
    np.testing.assert_allclose(np.mean(jax.device_get(losses)), whole, rtol=1e-6)


def test_cross_entropy_of_bfloat16_logits_is_computed_in_float32():
    rng = np.random.default_rng(4)
    logits = jnp.asarray(rng.normal(size=(4, 1, 50))).astype(jnp.bfloat16)
    labels = jnp.array([0, 1, 2, 3])
    loss = smoothed_cross_entropy(logits, labels)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(
        loss, _cross_entropy_by_hand(logits.astype(jnp.float32), labels, 0.1), rtol=1e-6
    )


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("margin", ["soft", 0.0, 0.3, 5.0])
def test_triplet_is_its_definition(distance, margin):
    rng = np.random.default_rng(5)
    # A lone tracklet of person 7, two empty slots, and people with two to four tracklets.
    labels = np.array([0, 0, 1, 1, 1, 7, -1, 2, 2, 2, 2, -1])
    for _ in range(20):
        features = rng.normal(size=(len(labels), 6)).astype(np.float32)
        features[6] = 1000.0
        loss = batch_hard_triplet(
            jnp.asarray(features), jnp.asarray(labels), distance=distance, margin=margin
        )
        expected = _triplet_by_hand(features, labels, distance, margin)
        np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)
        assert loss.dtype == jnp.float32


def test_triplet_of_points_on_a_line():
    # Anchors at 0, 1 (person 0) and 3 (person 1, alone: no anchor).
    loss = batch_hard_triplet(jnp.array([[0.0], [1.0], [3.0]]), jnp.array([0, 0, 1]), margin=1.5)
    np.testing.assert_allclose(loss, (max(0, 1.5 + 1 - 3) + max(0, 1.5 + 1 - 2)) / 2, rtol=1e-6)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("margin", ["soft", 0.3])
def test_triplet_gradient(distance, margin):
    rng = np.random.default_rng(6)
    labels = jnp.array([0, 0, 1, 1, -1, 2])
    with jax.enable_x64(True):
        features = jnp.asarray(rng.normal(size=(6, 4)))

        def function(x):
            return batch_hard_triplet(x, labels, distance=distance, margin=margin)

        _check_gradient(function, features, rng)
        assert function(features).dtype == jnp.float64
        assert (jax.grad(function)(features)[4] == 0).all()


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("margin", ["soft", 0.3])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e-25, 1e15])
def test_triplet_gradient_is_finite_between_equal_features(distance, margin, value):
    function = jax.value_and_grad(
        lambda x: batch_hard_triplet(x, np.array([0, 0, 1, 1]), distance=distance, margin=margin)
    )
    loss, gradient = function(jnp.full((4, 3), value))
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3], [-1, -1, -1, -1], [0, 0, -1, -1]])
def test_triplet_without_anchors_is_zero(labels):
    rng = np.random.default_rng(7)
    features = jnp.asarray(rng.normal(size=(4, 3)).astype(np.float32))
    loss, gradient = jax.value_and_grad(batch_hard_triplet)(features, jnp.array(labels))
    assert loss == 0
    assert (gradient == 0).all()


def test_triplet_does_not_depend_on_the_order():
    rng = np.random.default_rng(8)
    features = rng.normal(size=(8, 5)).astype(np.float32)
    labels = np.array([0, 0, 1, 1, 2, 2, -1, 3])
    first = batch_hard_triplet(jnp.asarray(features), jnp.asarray(labels))
    order = rng.permutation(8)
    again = batch_hard_triplet(jnp.asarray(features[order]), jnp.asarray(labels[order]))
    np.testing.assert_allclose(again, first, rtol=1e-6)


def test_triplet_keeps_the_digits_of_near_neighbours_far_from_the_origin():
    offset = np.float32(1000.0)
    features = offset + np.array([[0, 0], [0.25, 0], [0, 0.5], [0.5, 0.5]], np.float32)
    labels = np.array([0, 0, 1, 1])
    loss = batch_hard_triplet(jnp.asarray(features), jnp.asarray(labels), margin=0.3)
    expected = _triplet_by_hand(features, labels, "euclidean", 0.3)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "options", [{"distance": "manhattan"}, {"margin": "hard"}, {"margin": -0.1}]
)
def test_triplet_names_the_wrong_option(options):
    name, value = next(iter(options.items()))
    with pytest.raises(UserError, match=f"triplet {name}: found {value!r}"):
        batch_hard_triplet(jnp.zeros((2, 2)), jnp.array([0, 1]), **options)


def test_losses_compile_once_for_all_labels():
    traces = itertools.count()

    @jax.jit
    def both(features, labels):
        next(traces)
        return smoothed_cross_entropy(features[:, None], labels) + batch_hard_triplet(
            features, labels
        )

    for labels in ([0, 0, 1, 1], [-1, 2, 2, 0]):
        assert np.isfinite(both(jnp.ones((4, 3)), jnp.array(labels)))
    assert next(traces) == 1
