"""A table's features by a model that passes pixels on, against the image files' own pixels."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from stf_jax.config import Config, changed
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.evaluation.features.table import extract_table
from stf_jax.models import TemporalFusionNet
from stf_jax.models.temporal_fusion_net import TemporalFusionOutput

LENGTHS = (1, 4, 5, 9, 3)
CHUNK, HEIGHT, WIDTH = 4, 32, 16
MEAN, STD = (np.array(x) for x in ((0.486, 0.459, 0.408), (0.229, 0.224, 0.225)))
# Everything that training may do to an image, at its strongest.
AUGMENT = {
    **dict.fromkeys(("mirror", "blur", "crop", "hsv", "erase", "horizontal_crop"), 1.0),
    "blur_kernels": (5,),
    "horizontal_crop_keep": (0.3, 0.5),
}


class Pixels(TemporalFusionNet):
    """A tracklet's feature is the mean of its frames' pixels, slot k counting k + 1 times."""

    def setup(self) -> None:
        """Without any part."""

    def packed(self, frames, tracklet, slot, *, num_tracklets, num_slots, train=False):
        assert not train
        real = tracklet < num_tracklets
        owner = tracklet[None, :] == jnp.arange(num_tracklets)[:, None]
        raw = jnp.where(owner, (slot + 1.0)[None, :], 0.0)
        share = raw / jnp.maximum(raw.sum(1, keepdims=True), 1)
        features = share @ frames.reshape(len(frames), -1)
        weights = jnp.zeros((num_tracklets, num_slots))
        weights = weights.at[tracklet, slot].set(jnp.where(real, share.sum(0), 0), mode="drop")
        return TemporalFusionOutput(
            features[:, None], None, weights, None, weights, features[None, :, None], weights[:, :1]
        )


def make_table(root: Path, height: int) -> tuple[TrackletTable, np.ndarray]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (sum(LENGTHS), height, WIDTH, 3), np.uint8)
    names = [f"{row}.png" for row in range(len(pixels))]
    for name, image in zip(names, pixels, strict=True):
        Image.fromarray(image).save(root / name)
    n = np.arange(len(LENGTHS))
    marks, offsets = np.ones(len(n), np.int8), np.cumsum([0, *LENGTHS])
    return TrackletTable(
        root, np.array(names, "S"), offsets, n, n % 2 + 1, n, marks, n * 0 - 1
    ), pixels


def by_hand(pixels: np.ndarray, flip: bool, weighting: str) -> np.ndarray:
    frames = (pixels / 255 - MEAN) / STD
    if flip:  # left to right
        frames = (frames + frames[:, :, ::-1]) / 2
    features = []
    for first, length in zip(np.cumsum([0, *LENGTHS]), LENGTHS, strict=False):
        chunks, counts = [], []
        for start in range(first, first + length, CHUNK):
            chunk = frames[start : min(start + CHUNK, first + length)]
            chunks.append(np.average(chunk, axis=0, weights=np.arange(len(chunk)) + 1).ravel())
            counts.append(len(chunk) if weighting == "frames" else 1)
        feature = np.average(chunks, axis=0, weights=counts)
        features.append(feature / np.linalg.norm(feature))
    return np.stack(features)


@pytest.mark.parametrize(
    ("flip", "weighting", "padded", "from_bytes"),
    [
        (False, "mean", False, False),
        (True, "frames", False, False),
        (True, "mean", True, True),
    ],
)
def test_features_are_of_the_files_own_pixels(
    flip: bool, weighting: str, padded: bool, from_bytes: bool, tmp_path: Path
) -> None:
    table, pixels = make_table(tmp_path, HEIGHT // 2 if padded else HEIGHT)
    values = {
        "data.height": HEIGHT,
        "data.width": WIDTH,
        "evaluation.chunk": CHUNK,
        "evaluation.frames_per_device": 6,
        "evaluation.flip": flip,
        "evaluation.chunk_weighting": weighting,
        "augment.pad_ratio": 2.0 if padded else 0.0,
        **{f"augment.{name}": value for name, value in AUGMENT.items()},
    }

    def read_frames(rows: np.ndarray) -> Sequence[bytes]:
        return [(tmp_path / f"{row}.png").read_bytes() for row in rows]

    used = changed(Config(), values)
    model = Pixels(0)
    elsewhere = table
    if from_bytes:
        elsewhere = TrackletTable(**{**vars(table), "image_dir": tmp_path / "nowhere"})
    found = extract_table(
        model, {}, elsewhere, used, read_frames=read_frames if from_bytes else None
    )
    if padded:  # above and below, with the mean colour
        edges = np.broadcast_to(np.rint(255 * MEAN), (len(pixels), HEIGHT // 4, WIDTH, 3))
        pixels = np.concatenate([edges, pixels, edges], 1)
    wanted = by_hand(pixels, flip, weighting)
    np.testing.assert_allclose(found.features, wanted, atol=1e-5)
    assert abs(wanted - by_hand(pixels, not flip, weighting)).max() > 1e-3
    assert found.num_frames.tolist() == list(LENGTHS)
    weights = [
        (np.arange(n) + 1) / (n * (n + 1) / 2)
        for length in LENGTHS
        for n in [CHUNK] * (length // CHUNK) + [length % CHUNK] * (length % CHUNK > 0)
    ]
    np.testing.assert_allclose(found.frame_weights, np.concatenate(weights), rtol=1e-5)
    np.testing.assert_array_equal(found.intra_weights, found.frame_weights)
    assert np.isnan(found.inter_weights).all()
