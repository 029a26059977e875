"""Features of drawn tracklets, without a model, for galleries."""

from pathlib import Path
from typing import Any

import numpy as np
from origins import make_origin
from PIL import Image

from stf_jax.evaluation.features.feature_files import FeatureSet, write_features

D = 6


def draw(folder: Path, seed: int, count: int = 12, **changes: Any) -> FeatureSet:
    """Tracklets of cameras 1 and 2 and people 0, 1, 2 ..., two frames each, with images."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, D)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    folder.mkdir(exist_ok=True)
    names = [f"{seed}_{row}_{frame}.png" for row in range(count) for frame in range(2)]
    for name in names[:24]:
        Image.fromarray(rng.integers(0, 256, (8, 4, 3), np.uint8)).save(folder / name)
    first = 100 * np.arange(count) + 1
    ones = np.ones(2 * count, np.float32)
    values: dict[str, Any] = {
        "features": features,
        "person_ids": np.arange(count),
        "cameras": np.arange(count) % 2 + 1,
        "tracks": np.arange(count),
        "marks": np.full(count, -1, np.int8),
        "titles": np.full(count, "", "U1"),
        "num_frames": np.full(count, 2),
        "offsets": 2 * np.arange(count + 1),
        "names": np.array(names, "S"),
        **dict.fromkeys(("frame_weights", "intra_weights", "inter_weights"), ones),
        "image_dir": str(folder),
        "origin": make_origin(),
        "sources": np.stack([np.arange(count), first, first + 50], 1),
    }
    return FeatureSet(**values | changes)


def save(folder: Path, name: str, seed: int, **changes: Any) -> tuple[str, FeatureSet]:
    """The path of a file of drawn features, and what is in it."""
    features = draw(folder / "images", seed, **changes)
    write_features(folder / name, features)
    return str(folder / name), features
