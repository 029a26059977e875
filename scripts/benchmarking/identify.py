"""Part `identify`: the command `--mode identify` on drawn features, its time and peak memory."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarking.child import Row
from benchmarking.match import command, draw_features
from benchmarking.settings import Settings
from stf_jax.evaluation.features.feature_files import FeatureSet, write_features

TRACKLETS_OF_A_PERSON = 10
CAMERAS = 8


def run(settings: Settings) -> Iterator[Row]:
    """Yield a row of the command's wall time and peak memory, reading and page included."""
    features = draw_people(settings.tracklets_joined)
    people = int(features.person_ids.max()) + 1
    with tempfile.TemporaryDirectory(prefix="stf_identify_") as folder:
        path = Path(folder) / "all.npz"
        write_features(path, features)
        yield {
            "note": f"{features.num_tracklets:,} tracklets of {people:,} people, "
            f"{features.features.shape[1]} numbers, {CAMERAS} cameras"
        }
        words = ["--mode", "identify", "--input", path, "--output", Path(folder) / "who"]
        yield command("identify", [*words, "--people", str(people), "--labelled"])


def draw_people(count: int) -> FeatureSet:
    """`count` tracklets of a tenth as many people about centres of their own, with times."""
    random = np.random.default_rng(7)
    drawn = draw_features(count, 1)
    people = random.integers(0, max(1, count // TRACKLETS_OF_A_PERSON), count)
    people = np.unique(people, return_inverse=True)[1]
    centres = draw_features(int(people.max()) + 1, 2).features
    features = centres[people] + 0.8 * drawn.features
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    first = random.integers(1, 100 * count, count)
    last = first + random.integers(10, 200, count)
    return replace(
        drawn,
        features=features,
        person_ids=people,
        cameras=random.integers(1, CAMERAS + 1, count),
        sources=np.stack([np.arange(count), first, last], axis=1),
        rates=np.full(count, 25.0),
    )
