"""Which settings of a run make features unlike."""

import json
from dataclasses import asdict

import pytest

from stf_jax.config import Config, changed
from stf_jax.evaluation.features.origin import feature_origin


@pytest.mark.parametrize(
    ("key", "value", "enters"),
    [
        ("evaluation.distance", "cosine", True),
        ("evaluation.flip", True, True),
        ("evaluation.chunk", 10, True),
        ("evaluation.chunk_weighting", "frames", True),
        ("data.height", 256, True),
        ("data.width", 64, True),
        ("augment.pad_ratio", 3.0, True),
        ("model.relation_padding", "reference", True),
        ("model.bounded_attention", False, True),
        ("model.dtype", "bfloat16", True),
        ("model.last_stride", 2, True),
        ("model.remat", True, False),
        ("data.root", "elsewhere", False),
        ("data.threads", 3, False),
        ("evaluation.frames_per_device", 200, False),
        ("evaluation.rerank", True, False),
        ("train.parallel", "shard_map", False),
        ("augment.horizontal_crop", 0.5, False),  # in training only
    ],
)
def test_what_changes_a_feature_enters(key: str, value: object, enters: bool) -> None:
    plain, other = Config(), changed(Config(), {key: value})
    assert (feature_origin(plain, "0", 1) != feature_origin(other, "0", 1)) == enters


def test_settings_have_their_own_places() -> None:
    values = {"distance": "cosine", "flip": True, "chunk": 10, "chunk_weighting": "frames"}
    config = changed(Config(), {f"evaluation.{name}": value for name, value in values.items()})
    found = asdict(feature_origin(config, "digest", 3))
    settings = json.loads(found.pop("settings"))
    assert found == {
        "weights_digest": "digest",
        "step": 3,
        "metric": "cosine",
        "flip": True,
        "chunk": 10,
        "chunk_weighting": "frames",
    }
    assert (settings["data.height"], settings["data.width"]) == (384, 128)
