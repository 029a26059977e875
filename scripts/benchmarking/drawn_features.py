"""Features drawn for a benchmark as a set: tracklets of one frame each, without images."""

import numpy as np

from stf_jax.evaluation.features.feature_files import FeatureSet
from stf_jax.evaluation.features.origin import FeatureOrigin


def as_set(
    features: np.ndarray, people: np.ndarray, camera: int, origin: FeatureOrigin
) -> FeatureSet:
    """The tracklets of `features` [N, D], of `people` [N], in one camera."""
    count = len(features)
    ones = np.ones(count, np.float32)
    return FeatureSet(
        features=features,
        person_ids=people.astype(np.int64),
        cameras=np.full(count, camera),
        tracks=np.arange(count),
        marks=np.full(count, -1, np.int8),
        titles=np.full(count, "", "U1"),
        num_frames=np.ones(count, np.int64),
        offsets=np.arange(count + 1),
        names=np.array([f"{camera}_{row}" for row in range(count)], "S"),
        frame_weights=ones,
        intra_weights=ones,
        inter_weights=ones,
        image_dir="/nowhere",
        origin=origin,
    )
