"""Ranking one set of features against another; made-up features of tracklets of one frame."""

from typing import Any

import numpy as np
import pytest
from origins import make_origin

import stf_jax
from stf_jax.errors import UserError
from stf_jax.evaluation.calibration import Calibration
from stf_jax.evaluation.features.feature_files import FeatureSet

WEIGHTS = ("frame_weights", "intra_weights", "inter_weights")


def make_set(features: list[list[float]], name: str = "a", **origin: Any) -> FeatureSet:
    count = len(features)
    values: dict[str, Any] = dict.fromkeys(WEIGHTS, np.ones(count, np.float32))
    return FeatureSet(
        features=np.array(features, np.float32).reshape(count, 2),
        person_ids=np.full(count, -1),
        cameras=np.ones(count, np.int64),
        tracks=np.arange(count),
        marks=np.full(count, -1, np.int8),
        titles=np.full(count, "", "U1"),
        num_frames=np.ones(count, np.int64),
        offsets=np.arange(count + 1),
        names=np.array([f"{name}{row}.png" for row in range(count)], "S"),
        image_dir="",
        origin=make_origin(**origin),
        **values,
    )


@pytest.mark.parametrize(("metric", "order"), [("euclidean", [1, 0]), ("cosine", [0, 1])])
def test_the_metric_is_the_runs(metric: str, order: list[int]) -> None:
    query, gallery = (
        make_set([[1, 0]], metric=metric),
        make_set([[9, 1], [1, 1]], "b", metric=metric),
    )
    assert stf_jax.match_tracklets(query, gallery).entries.tolist() == [order]


@pytest.mark.parametrize(
    ("unlike", "told"),
    [
        (
            {"weights_digest": "f" * 64, "flip": True},
            "query: features of weights 01234567, step 1; gallery: features of weights ffffffff, "
            "step 1; expected one run, checkpoint and settings; write both again with --mode "
            "evaluate or --mode embed",
        ),
        ({"step": 2}, "weights 01234567, step 1; gallery: features of weights 01234567, step 2;"),
        ({"metric": "cosine"}, "metric euclidean; gallery: features of metric cosine;"),
        ({"flip": True}, "query: features of flip False; gallery: features of flip True;"),
        ({"chunk": 2}, "query: features of chunk 1; gallery: features of chunk 2;"),
        ({"chunk_weighting": "frames"}, "chunk_weighting mean; gallery: features of"),
        (
            {"settings": '{"data.height": 64}'},
            "data.height None; gallery: features of data.height 64",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_features_of_another_origin_are_refused(unlike: dict[str, Any], told: str) -> None:
    query, gallery = make_set([[1, 0]]), make_set([[1, 0]], "b", **unlike)
    with pytest.raises(UserError) as caught:
        stf_jax.match_tracklets(query, gallery)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    calibration = Calibration(1.0, -2.0, 0.1, gallery.origin, 10, 90)
    with pytest.raises(UserError, match="; calibration: features of"):
        stf_jax.match_tracklets(query, query, calibration=calibration)
    matches = stf_jax.match_tracklets(gallery, gallery, calibration=calibration)
    assert matches.probabilities is not None


def test_nothing_to_match() -> None:
    with pytest.raises(UserError, match="query: no tracklet"):
        stf_jax.match_tracklets(make_set([]), make_set([[1, 0]]))
