"""Origins of features for sets that no model made."""

from typing import Any

from stf_jax.evaluation.features.origin import FeatureOrigin


def make_origin(**changes: Any) -> FeatureOrigin:
    values: dict[str, Any] = {
        "weights_digest": "0123456789abcdef",
        "step": 1,
        "metric": "euclidean",
        "flip": False,
        "chunk": 1,
        "chunk_weighting": "mean",
        "settings": "{}",
    }
    return FeatureOrigin(**values | changes)
