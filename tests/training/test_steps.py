"""The parallel step: devices and batch split do not change what is learnt; nothing is dropped."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stf_jax.config import AugmentConfig, LossConfig
from stf_jax.data.batch import PackedBatch
from stf_jax.devices import DEVICES
from stf_jax.models import TemporalFusionNet
from stf_jax.models.temporal_fusion_net import TemporalFusionOutput
from stf_jax.models.variables import init_variables
from stf_jax.training.losses import batch_hard_triplet, smoothed_cross_entropy
from stf_jax.training.state import TrainState, init_state
from stf_jax.training.steps import mean_count, parallel_train_step, total_loss

OPTIONS = LossConfig(label_smoothing=0.1, triplet_weight=0.0)
PLAIN = AugmentConfig(mirror=0.0, blur=0.0)
B, T, H, W, K = 4, 3, 32, 16, 5
LENGTHS = (3, 1, 2, 3)  # so that two devices hold 4 and 5 real frames


def packed(rows: list[int], size: int) -> PackedBatch:
    """One device's batch of the tracklets `rows`, padded to `size` frames with garbage."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (B, T, H, W, 3), dtype=np.uint8)
    images = np.full((size, H, W, 3), 77, np.uint8)
    tracklet, slot = np.full(size, len(rows), np.int32), np.zeros(size, np.int32)
    m = 0
    for b, row in enumerate(rows):
        for t in range(LENGTHS[row]):
            images[m], tracklet[m], slot[m] = pixels[row, t], b, t
            m += 1
    labels = np.array([(0, 1, 2, 4)[row] for row in rows], np.int32)
    return PackedBatch(images, tracklet, slot, labels, np.array(rows, np.int32))


def stacked(*parts: PackedBatch) -> PackedBatch:
    return jax.tree.map(lambda *arrays: np.stack(arrays), *parts)


def one_step(batch: PackedBatch, devices, **options) -> tuple[TrainState, dict]:
    model = TemporalFusionNet(
        num_classes=K, backbone="resnet18", embed_dim=8, axis_name=DEVICES, **options
    )
    optimizer = optax.sgd(0.1, momentum=0.9, nesterov=True)
    # A state of its own for each call: the step takes it away.
    state = init_state(init_variables(model, 0, H, W), optimizer)
    step = parallel_train_step(
        devices,
        model=model,
        optimizer=optimizer,
        num_slots=T,
        loss_options=OPTIONS,
        augment_options=PLAIN,
    )
    state, metrics = step(state, batch, jax.random.key(0))
    return jax.device_get(state), jax.device_get(metrics)


@pytest.fixture(scope="module")
def whole() -> tuple[TrainState, dict]:
    return one_step(stacked(packed([0, 1, 2, 3], 10)), jax.devices()[:1])


def assert_same(ours: TrainState, theirs: TrainState) -> None:
    for name in ("params", "batch_stats"):
        mine, other = (
            dict(jax.tree_util.tree_leaves_with_path(getattr(state, name)))
            for state in (ours, theirs)
        )
        for path, value in mine.items():
            np.testing.assert_allclose(
                value, other[path], rtol=2e-3, atol=2e-5, err_msg=jax.tree_util.keystr(path)
            )


def test_two_devices_with_half_the_batch_are_one_with_the_whole(whole) -> None:
    halves = stacked(packed([0, 1], 6), packed([2, 3], 6))
    state, metrics = one_step(halves, jax.devices()[:2])
    assert metrics["loss"] == pytest.approx(whole[1]["loss"], rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(whole[1]["grad_norm"], rel=1e-4)
    assert_same(state, whole[0])


def test_padding_and_order_of_the_tracklets_change_nothing(whole) -> None:
    state, metrics = one_step(stacked(packed([2, 0, 3, 1], 13)), jax.devices()[:1])
    assert metrics["loss"] == pytest.approx(whole[1]["loss"], rel=1e-5)
    assert_same(state, whole[0])


def test_the_step_moves_every_parameter_and_counts(whole) -> None:
    state, metrics = whole
    assert state.step == 1
    assert 0 <= metrics["accuracy"] <= 1
    model = TemporalFusionNet(num_classes=K, backbone="resnet18", embed_dim=8, axis_name=DEVICES)
    before = init_variables(model, 0, H, W)["params"]
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, state.params)
    # A bias in front of BatchNorm has no gradient; a score asleep under the ReLU has none either.
    still = {
        jax.tree_util.keystr(p) for p, m in jax.tree_util.tree_leaves_with_path(moved) if not m
    }
    assert not [name for name in still if "relation" not in name and "bias" not in name], still


def test_triplet_loss_joins_with_its_weight() -> None:
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(4, 2, 3)), jnp.float32)
    logits = jnp.asarray(rng.normal(size=(4, 2, 5)), jnp.float32)
    labels = jnp.array([0, 0, 1, 1])
    plain, parts = total_loss(features, logits, labels, OPTIONS)
    assert set(parts) == {"cross_entropy"}
    both, parts = total_loss(features, logits, labels, replace(OPTIONS, triplet_weight=0.5))
    np.testing.assert_allclose(both, plain + 0.5 * parts["triplet"], rtol=1e-6)
    assert parts["triplet"] > 0


@pytest.mark.parametrize("devices", [1, 2, 8, 64])
@pytest.mark.parametrize("real", [0, 1, 3])
def test_the_loss_is_the_mean_over_tracklets_on_any_number_of_devices(devices, real) -> None:
    """`K` equally likely classes: ln K a tracklet, however few of the devices hold one."""
    labels = np.full((devices, 3), -1, np.int32)
    labels.T.flat[:real] = 2

    def loss(labels):
        logits = jnp.zeros((3, 1, K))
        mean = smoothed_cross_entropy(logits, labels, count=mean_count(labels >= 0, DEVICES))
        return jax.lax.pmean(mean, DEVICES)

    found = jax.vmap(loss, axis_name=DEVICES)(labels)
    np.testing.assert_allclose(found, np.log(K) if real else 0, rtol=1e-6)


class Plain(TemporalFusionNet):
    """Logits are linear in the sum of a tracklet's frames; frames and their mean are statistics."""

    def setup(self) -> None:
        self.weight = self.param("embedding", nn.initializers.ones, (3, K))
        self.seen = self.variable("batch_stats", "seen", lambda: jnp.zeros(()))

    def packed(self, frames, tracklet, slot, *, num_tracklets, num_slots, train=False):
        assert train
        assert num_slots == T
        self.seen.value = frames
        means = jnp.zeros((num_tracklets, 3)).at[tracklet].add(frames.mean((1, 2)), mode="drop")
        features = means[:, None, :]
        logits = features @ self.weight
        others: Any = [None] * 5
        return TemporalFusionOutput(features, logits, *others)


HALF_LABELS = np.array([[0, 0], [1, 1]], np.int32)
START = np.sin(np.arange(3.0 * K, dtype=np.float32)).reshape(3, K)


def plain_steps(
    batch: PackedBatch,
    devices: int,
    *,
    at: int = 0,
    count: int = 1,
    kind: Callable[..., Plain] = Plain,
    losses: LossConfig = OPTIONS,
    **augment,
):
    """Take steps of `Plain` with a learning rate of 1: their statistics, the state, the metrics."""
    optimizer = optax.sgd(1.0)
    variables = {
        "params": {"embedding": jnp.array(START)},
        "batch_stats": {"seen": jnp.zeros(batch.images.shape[1:])},
    }
    state = init_state(variables, optimizer)
    state = TrainState(jnp.int32(at), state.params, state.batch_stats, state.opt_state)
    step = parallel_train_step(
        jax.devices()[:devices],
        model=kind(num_classes=K),
        optimizer=optimizer,
        num_slots=T,
        loss_options=losses,
        augment_options=replace(PLAIN, **augment),
    )
    seen, metrics = [], {}
    for _ in range(count):
        state, metrics = step(state, batch, jax.random.key(3))
        seen.append(np.asarray(state.batch_stats["seen"]))
    return seen, jax.device_get(state), jax.device_get(metrics)


def test_triplets_are_of_the_feature_before_the_neck() -> None:
    class Necked(Plain):
        def packed(self, *arguments, **options):
            found = super().packed(*arguments, **options)
            return replace(found, before_neck=jnp.sin(9 * found.features))

    losses = replace(OPTIONS, triplet_weight=1.0)
    batch = stacked(packed([0, 1, 2, 3], 10))
    batch = replace(batch, labels=np.array([[0, 0, 1, 1]], np.int32))
    found = []
    for kind in (Plain, Necked):
        seen, _, metrics = plain_steps(batch, 1, kind=kind, losses=losses)
        means = np.zeros((B, 3))
        np.add.at(means, batch.tracklet[0][batch.real[0]], seen[0].mean((1, 2))[batch.real[0]])
        features = np.sin(9 * means) if kind is Necked else means
        expected = batch_hard_triplet(
            jnp.asarray(features, jnp.float32), jnp.asarray(batch.labels[0])
        )
        np.testing.assert_allclose(metrics["triplet"], expected, rtol=1e-4)
        found.append(metrics)
    assert found[0]["cross_entropy"] == found[1]["cross_entropy"]
    assert found[0]["triplet"] != pytest.approx(found[1]["triplet"], rel=1e-2)


class Staged(Plain):
    """Two stages' features of their own beside the one that is compared."""

    def packed(self, *arguments, **options):
        found = super().packed(*arguments, **options)
        stages = jnp.stack([2 * found.features, -found.features])
        return replace(found, stage_features=stages)

    def stage_logits(self, stage_features, tracklet_real):
        self.seen.value = 0 * self.seen.value  # as a neck's moments: not to be kept
        return stage_features @ self.weight


@pytest.mark.parametrize("triplet_weight", [0.0, 0.5])
def test_the_losses_of_the_stages_join_with_their_weight(triplet_weight: float) -> None:
    batch = stacked(packed([0, 1, 2, 3], 10))
    batch = replace(batch, labels=np.array([[0, 0, 1, 1]], np.int32))
    losses = replace(OPTIONS, triplet_weight=triplet_weight, stage_weight=0.25)
    seen, state, metrics = plain_steps(batch, 1, kind=Staged, losses=losses)
    assert np.abs(seen[0]).max() > 0
    means = np.zeros((B, 3), np.float32)
    np.add.at(means, batch.tracklet[0][batch.real[0]], seen[0].mean((1, 2))[batch.real[0]])
    features = jnp.asarray(means)[:, None, :]

    def expected(weight):
        def loss(u):
            return total_loss(u, u @ weight, jnp.asarray(batch.labels[0]), losses)[0]

        stages = loss(2 * features) + loss(-features)
        return loss(features) + 0.25 * stages, stages

    (total, stages), slope = jax.value_and_grad(expected, has_aux=True)(jnp.asarray(START))
    np.testing.assert_allclose(metrics["stages"], stages, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)
    np.testing.assert_allclose(state.params["embedding"], START - slope, rtol=1e-4, atol=1e-6)
    # One stage has no feature but the whole's.
    alone = Staged(num_classes=K, stages=(4,))
    assert "stages" not in plain_steps(batch, 1, kind=lambda **_: alone, losses=losses)[2]
    # Devices share them as they share the rest.
    halves = [packed([0, 1], 6), packed([2, 3], 6)]
    labelled = stacked(*(replace(h, labels=n) for h, n in zip(halves, HALF_LABELS, strict=True)))
    _, apart, split = plain_steps(labelled, 2, kind=Staged, losses=losses)
    np.testing.assert_allclose(split["loss"], metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(
        apart.params["embedding"], state.params["embedding"], rtol=1e-4, atol=1e-6
    )


def test_each_step_and_frame_is_augmented_by_its_own_number() -> None:
    """One picture for all frames: what differs has been drawn."""
    picture = packed([0], 3).images[0]

    def seen_of(order: list[int], **options) -> list[np.ndarray]:
        batch: Any = stacked(packed(order, 9))
        images = np.broadcast_to(picture, batch.images.shape).copy()
        return plain_steps(batch.replace(images=images), 1, mirror=0.5, **options)[0]

    seen = seen_of([0, 1, 2, 3], count=4)
    assert all(len({frame.tobytes() for frame in frames}) == 2 for frames in seen)
    assert len({frames.tobytes() for frames in seen}) == 4
    # A resumed run's step is the one that the first run would have taken.
    np.testing.assert_array_equal(seen_of([0, 1, 2, 3], at=2), seen[2:3])

    def by_number(order: list[int]) -> dict[tuple[int, int], bytes]:
        numbers = [(row, t) for row in order for t in range(LENGTHS[row])]
        return dict(zip(numbers, (f.tobytes() for f in seen_of(order)[0]), strict=True))

    # A frame has the same draws wherever it lies.
    assert by_number([0, 1, 2, 3]) == by_number([2, 0, 3, 1])


def test_a_tracklets_frames_may_be_augmented_alike() -> None:
    """Each frame as one of its tracklet's number 0 is, wherever tracklets lie."""
    picture = packed([0], 3).images[0]
    options: dict[str, Any] = {"mirror": 0.5, "erase": 0.8, "crop": 0.5, "hsv": 0.5}

    def frames_of(order: list[int], devices: int = 1, **more) -> dict[int, list[bytes]]:
        share = len(order) // devices
        parts = [packed(order[i * share : (i + 1) * share], 9) for i in range(devices)]
        found: dict[int, list[bytes]] = {}
        for part in parts:
            batch: Any = stacked(part)
            images = np.broadcast_to(picture, batch.images.shape).copy()
            (seen,), *_ = plain_steps(batch.replace(images=images), 1, **options, **more)
            for frame, owner in zip(seen, part.tracklet, strict=True):
                if owner < share:
                    found.setdefault(int(part.global_index[owner]), []).append(frame.tobytes())
        return found

    alike, apart = (frames_of([0, 1, 2, 3], per=per) for per in ("tracklet", "frame"))
    assert {row: len(frames) for row, frames in alike.items()} == dict(enumerate(LENGTHS))
    for row, frames in alike.items():
        assert set(frames) == {apart[row][0]}
        assert len(set(apart[row])) == LENGTHS[row]
    assert len({frames[0] for frames in alike.values()}) == B
    for order, devices in (([2, 0, 3, 1], 1), ([0, 1, 2, 3], 2)):
        assert frames_of(order, devices, per="tracklet") == alike


def test_devices_agree_on_the_means_of_gradients_statistics_and_metrics() -> None:
    halves = [packed([0, 1], 6), packed([2, 3], 6)]
    each = [plain_steps(stacked(half), 1) for half in halves]
    (seen,), state, metrics = plain_steps(stacked(*halves), 2)
    np.testing.assert_allclose(seen, (each[0][0][0] + each[1][0][0]) / 2, rtol=1e-5, atol=1e-6)
    for name in ("loss", "accuracy", "cross_entropy"):
        expected = (each[0][2][name] + each[1][2][name]) / 2
        np.testing.assert_allclose(metrics[name], expected, rtol=1e-5, err_msg=name)
    mean = (each[0][1].params["embedding"] + each[1][1].params["embedding"]) / 2
    np.testing.assert_allclose(state.params["embedding"], mean, rtol=1e-4, atol=1e-6)
    # With a learning rate of 1 the step is the gradient.
    moved = state.params["embedding"] - START
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(moved), rtol=1e-4)
