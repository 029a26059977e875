"""The logistic fit against what the data were drawn from, and against scipy."""

from typing import Any

import numpy as np
import pytest
from origins import make_origin
from scipy.optimize import minimize

from stf_jax.errors import UserError
from stf_jax.evaluation.calibration import Calibration, fit_calibration, fit_logistic
from stf_jax.evaluation.features.feature_files import FeatureSet


def make_set(spread: float, **changes: Any) -> FeatureSet:
    """40 people in two cameras, a query and a gallery tracklet each, around their own points."""
    rng = np.random.default_rng(0)
    person_ids = np.repeat(np.arange(40), 2)
    features = rng.normal(size=(40, 8))[person_ids] + spread * rng.normal(size=(80, 8))
    values: dict[str, Any] = {
        "features": features.astype(np.float32),
        "person_ids": person_ids,
        "cameras": np.tile([1, 2], 40),
        "tracks": np.ones(80, np.int64),
        "marks": np.tile(np.array([0, 1], np.int8), 40),
        "titles": np.full(80, "", "U1"),
        "num_frames": np.ones(80, np.int64),
        "offsets": np.arange(81),
        "names": np.array(["a.png"] * 80, "S"),
        "image_dir": "",
        "origin": make_origin(),
    }
    weights = ("frame_weights", "intra_weights", "inter_weights")
    values |= {name: np.ones(80, np.float32) for name in weights}
    return FeatureSet(**(values | changes))


def test_fit_is_the_minimum() -> None:
    rng = np.random.default_rng(1)
    values = np.sort(rng.uniform(0.2, 1.7, 50))
    matches, others = rng.poisson(20 * (1.8 - values)), rng.poisson(90 * values)
    total_matches, total_others = matches.sum(), others.sum()
    high, low = (total_matches + 1) / (total_matches + 2), 1 / (total_others + 2)

    def loss(weights: np.ndarray) -> float:
        logits = weights[0] + weights[1] * values
        as_match, as_other = np.logaddexp(0, -logits), np.logaddexp(0, logits)
        return float(
            matches @ (high * as_match + (1 - high) * as_other)
            + others @ (low * as_match + (1 - low) * as_other)
        )

    wanted = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-8}).x
    np.testing.assert_allclose(fit_logistic(values, matches, others), wanted, rtol=1e-4)


def test_probabilities_are_met_by_the_pairs() -> None:
    """Of the pairs said to be matches with probability p, a share p is."""
    features = make_set(0.7)
    found = fit_calibration(features)
    assert (found.matches, found.others) == (40, 40 * 39)
    assert found.prior == pytest.approx(1 / 40)
    query, gallery = features.features[::2], features.features[1::2]
    chances = found.probabilities(np.linalg.norm(query[:, None] - gallery[None], axis=-1))
    assert chances.mean() == pytest.approx(1 / 40, rel=0.05)
    same = np.eye(40, dtype=bool)
    sure = chances > 0.5
    assert same[sure].mean() == pytest.approx(chances[sure].mean(), abs=0.15)
    near, far = found.probabilities(np.array([0.0, np.inf]))
    assert far == 0 < near < 1


def test_matches_that_stand_apart_stay_finite() -> None:
    found = fit_calibration(make_set(0.01))
    assert np.isfinite([found.intercept, found.slope]).all()
    assert found.probabilities(np.array([0.05])) > 0.9
    assert found.probabilities(np.array([3.0])) < 0.1


def test_another_prior_is_bayes_rule() -> None:
    found = Calibration(1.0, -2.0, 0.1, make_origin(), 10, 90)
    moved = found.with_prior(0.4)
    distances = np.linspace(0, 2, 5)
    p = found.probabilities(distances)
    for_match, for_other = p / 0.1 * 0.4, (1 - p) / 0.9 * 0.6
    np.testing.assert_allclose(
        moved.probabilities(distances), for_match / (for_match + for_other), rtol=1e-12
    )
    with pytest.raises(UserError, match="prior: 1"):
        found.with_prior(1.0)


def test_what_cannot_be_fitted() -> None:
    with pytest.raises(UserError, match="0 matching"):
        fit_calibration(make_set(0.5, cameras=np.ones(80, np.int64)))
    with pytest.raises(UserError, match="none of 80 tracklets is a query"):
        fit_calibration(make_set(0.5, marks=np.ones(80, np.int8)))
    backwards = make_set(0.5)
    swapped = backwards.features.copy()
    swapped[1::2] = -10 * swapped[::2]
    with pytest.raises(UserError, match="no nearer"):
        fit_calibration(make_set(0.5, features=swapped))


@pytest.mark.parametrize("same_camera", [False, True])
def test_the_threshold_for_false_alarms(same_camera: bool) -> None:
    """Every query with its person left out, as a loop; of other cameras, or of all."""
    cameras = np.tile([1, 2], 40)
    cameras[::6] = 2  # some queries share their camera with the gallery
    features = make_set(0.7, cameras=cameras)
    found = fit_calibration(features, false_alarms=0.1, same_camera=same_camera).alarms
    assert found is not None
    nearest, at_rank_1, sizes = [], [], []
    for q in range(0, 80, 2):
        entries = []
        for g in range(1, 80, 2):
            own = cameras[q] == cameras[g]
            person = q // 2 == g // 2
            if not (own and (person or not same_camera)):
                distance = np.linalg.norm(features.features[q] - features.features[g])
                entries.append((float(distance), person))
        others = [distance for distance, person in entries if not person]
        sizes.append(sum(same_camera or cameras[g] != cameras[q] for g in range(1, 80, 2)))
        if others:
            nearest.append(min(others))
        if any(person for _, person in entries):
            at_rank_1.append(min(entries)[0] if min(entries)[1] else np.inf)
    wanted = sorted(nearest)[int(0.1 * len(nearest) + 1e-9)]
    assert found.distance == pytest.approx(wanted, rel=1e-5)
    assert found.identified == pytest.approx(np.mean(np.array(at_rank_1) < wanted - 1e-6))
    assert (found.impostors, found.same_camera) == (len(nearest), same_camera)
    assert found.list_size == np.median(sizes)
    assert found.ends[0] <= found.identified <= found.ends[1]


def test_false_alarms_of_too_few_queries() -> None:
    with pytest.raises(UserError, match=r"40 queries .*; expected 100 or more for false alarms"):
        fit_calibration(make_set(0.7), false_alarms=0.01)
    with pytest.raises(UserError, match="false alarms: 1; expected a share above 0"):
        fit_calibration(make_set(0.7), false_alarms=1.0)
