"""Extraction against a plain loop over tracklets and chunks, with a hand-written model."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from stf_jax.data.batch import PackedBatch
from stf_jax.data.layout.partitions import TrackletTable
from stf_jax.data.sampling import Plan, evaluation_plan
from stf_jax.evaluation.features.extract import extract_features, extract_step
from stf_jax.models import TemporalFusionNet, TemporalFusionOutput

LENGTHS = (1, 4, 5, 9, 13, 3)
CHUNK = 4


def make_table() -> TrackletTable:
    n = len(LENGTHS)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    names = np.array([f"{i:06d}.png".encode() for i in range(offsets[-1])])
    ids = np.arange(n)
    return TrackletTable(
        Path("nowhere"), names, offsets, ids, ids % 2 + 1, ids, np.ones(n, np.int8), ids * 0 - 1
    )


def batches_of(plan: Plan, skipped: frozenset[int] = frozenset()):
    """Batches whose "images" are the frame rows themselves; padding is garbage."""
    for frames in plan.frame_rows:
        d, b, _ = frames.shape
        m = int((frames >= 0).sum((1, 2)).max()) + 2
        images = np.full((d, m), -777)
        tracklet, slot = np.full((d, m), b), np.zeros((d, m), int)
        for device in range(d):
            k = 0
            for owner, t in zip(*np.nonzero(frames[device] >= 0), strict=True):
                row = frames[device, owner, t]
                if row not in skipped:
                    images[device, k], tracklet[device, k], slot[device, k] = row, owner, t
                    k += 1
        labels = np.full((d, b), -1)
        yield PackedBatch(images, tracklet, slot, labels, labels)


def step(variables, batch):
    """Chunk feature: (mean of (row + 1), 1, its square) of the real frames; weight: 1 / frames."""
    d, b = batch.labels.shape
    features = np.zeros((d, b, 3), np.float32)
    weights = np.zeros((d, b, CHUNK), np.float32)
    for device in range(d):
        for owner in range(b):
            mine = batch.tracklet[device] == owner
            if mine.any():
                mean = (batch.images[device][mine] + 1).mean()
                features[device, owner] = mean, 1, mean**2
                weights[device, owner, batch.slot[device][mine]] = 1 / mine.sum()
    nothing = np.full_like(weights, np.nan)
    return {
        "features": features, "frame_weights": weights, "intra_weights": weights,
        "inter_weights": nothing,
    }  # fmt: skip


def by_hand(table: TrackletTable, weighting: str) -> np.ndarray:
    result = []
    for start, end in zip(table.offsets[:-1], table.offsets[1:], strict=True):
        chunks = [np.arange(first, min(first + CHUNK, end)) for first in range(start, end, CHUNK)]
        features = [np.array([(c + 1).mean(), 1, (c + 1).mean() ** 2]) for c in chunks]
        weights = [len(c) if weighting == "frames" else 1 for c in chunks]
        feature = np.average(features, axis=0, weights=weights)
        result.append(feature / (np.linalg.norm(feature) + np.finfo(np.float32).eps))
    return np.array(result)


@pytest.mark.parametrize("weighting", ["mean", "frames"])
@pytest.mark.parametrize("num_devices", [1, 2])
@pytest.mark.parametrize("frames_per_device", [4, 7, 100])
def test_equal_to_a_plain_loop(weighting: str, num_devices: int, frames_per_device: int) -> None:
    table = make_table()
    plan = evaluation_plan(
        table, num_devices=num_devices, chunk=CHUNK, frames_per_device=frames_per_device
    )
    counts = []
    found = extract_features(
        step, None, batches_of(plan), plan, table.num_tracklets, table.num_frames,
        weighting=weighting, progress=counts.append,
    )  # fmt: skip
    np.testing.assert_allclose(found.features, by_hand(table, weighting), rtol=1e-5)
    np.testing.assert_array_equal(found.num_frames, LENGTHS)
    assert sum(counts) == table.num_frames
    assert np.isnan(found.inter_weights).all()
    for i, length in enumerate(LENGTHS):
        mine = found.frame_weights[table.offsets[i] : table.offsets[i + 1]]
        assert mine.sum() == pytest.approx(-(-length // CHUNK), rel=1e-5)  # 1 a chunk


def test_skipped_frames_are_not_counted() -> None:
    table = make_table()
    plan = evaluation_plan(table, num_devices=1, chunk=CHUNK, frames_per_device=8)
    gone = frozenset({0, 3})  # all of tracklet 0, one frame of tracklet 1
    found = extract_features(
        step, None, batches_of(plan, gone), plan, table.num_tracklets, table.num_frames
    )
    np.testing.assert_array_equal(found.num_frames, [0, 3, *LENGTHS[2:]])
    assert not found.features[0].any()
    assert np.isfinite(found.features).all()
    assert np.isnan(found.frame_weights[[0, 3]]).all()


def test_a_missing_batch_is_an_error() -> None:
    table = make_table()
    plan = evaluation_plan(table, num_devices=1, chunk=CHUNK, frames_per_device=8)
    short = list(batches_of(plan))[:-1]
    with pytest.raises(RuntimeError, match="planned batches"):
        extract_features(step, None, short, plan, table.num_tracklets, table.num_frames)


class Marked(TemporalFusionNet):
    """Features are the red of the leftmost column; the kinds of weights are told apart."""

    def setup(self) -> None:
        """No parts."""

    def packed(self, frames, tracklet, slot, *, num_tracklets, num_slots, train=False):
        assert not train
        left = frames[:, 0, 0, 0][:, None, None]
        weights = [jnp.full((num_tracklets, num_slots), k) for k in (1.0, 2.0, 3.0)]
        stages: Any = [None] * 2
        return TemporalFusionOutput(left, None, *weights, *stages)


@pytest.mark.parametrize("flip", [False, True])
def test_a_step_gives_each_kind_of_weights_its_name(flip: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 3), np.uint8)
    index = np.arange(3, dtype=np.int32)
    batch = PackedBatch(images, index, 0 * index, index, index)
    found = extract_step({}, batch, model=Marked(num_classes=0), num_slots=CHUNK, flip=flip)
    red = (images[:, 0, :, 0] / 255 - 0.486) / 0.229  # the reference's statistics
    expected = (red[:, 0] + red[:, -1]) / 2 if flip else red[:, 0]
    np.testing.assert_allclose(found["features"][:, 0], expected, rtol=1e-5)
    for name, value in (("intra_weights", 1), ("inter_weights", 2), ("frame_weights", 3)):
        np.testing.assert_array_equal(found[name], np.full((3, CHUNK), value), name)
