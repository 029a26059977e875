"""Distance -> probability that two tracklets are one person, learnt from labelled pairs.

A logistic curve fitted by maximum likelihood with the smoothed targets of Platt, "Probabilistic
Outputs for Support Vector Machines" (Advances in Large Margin Classifiers, 1999).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import expit, logit

from stf_jax.errors import UserError
from stf_jax.evaluation.arguments import ArgumentError
from stf_jax.evaluation.centring import centre_pair
from stf_jax.evaluation.distances import pairwise_distances
from stf_jax.evaluation.features.feature_files import FeatureSet
from stf_jax.evaluation.features.origin import FeatureOrigin
from stf_jax.evaluation.match_ranks import JUNK_ID
from stf_jax.evaluation.open_set import open_set_scores
from stf_jax.evaluation.protocols import select_rows
from stf_jax.evaluation.ranked_lists import distance_histogram

_BINS = 4096  # pairs are counted by distance: millions of them cost no more than a few


@dataclass(frozen=True)
class AlarmThreshold:
    """The distance below which an entry is taken for a query's person, by its false alarm rate.

    It holds for lists of about as many entries as those that it was found on: in a gallery twice as
    large nearly twice as many people that are not in it raise an alarm.
    """

    false_alarms: float  # share of the queries whose person is not in the gallery, as asked for
    distance: float
    identified: float  # DIR there: of the queries with a match, the share found at rank 1
    ends: tuple[float, float]  # its 95 % interval over identities
    impostors: int  # queries that it was found on, their person left out of the gallery
    list_size: int  # entries of the median one's list
    same_camera: bool  # whether entries of a query's own camera were in it


@dataclass(frozen=True)
class Calibration:
    """P(same person | distance) = 1 / (1 + exp(-(intercept + slope * distance))).

    It holds for pairs of which a share `prior` are of one person, as in the set it was fitted on;
    what that share is elsewhere, `with_prior` can say.
    """

    intercept: float
    slope: float  # negative, per unit of distance
    prior: float
    origin: FeatureOrigin  # of the features whose distances, by its metric, it is for
    matches: int  # pairs it was fitted on
    others: int
    data: str = ""  # folder of the images they are of
    centred: bool = False  # each camera's mean feature taken off before
    alarms: AlarmThreshold | None = None
    dimensions: int | None = None  # numbers of a feature

    def probabilities(self, distances: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Probabilities in [0, 1], of the distances' shape; 0 at infinite distance."""
        logits = self.intercept + self.slope * np.asarray(distances, np.float64)
        return expit(logits)

    def with_prior(self, prior: float) -> "Calibration":
        """The same evidence where a share `prior` in (0, 1) of the pairs is of one person.

        Raises:
            ArgumentError: a share outside of (0, 1).
        """
        if not 0 < prior < 1:
            raise ArgumentError(f"prior: {prior}; expected a share above 0 and below 1")
        shift = float(logit(prior) - logit(self.prior))
        return replace(self, intercept=self.intercept + shift, prior=prior)


def fit_calibration(
    features: FeatureSet,
    *,
    centred: bool = False,
    false_alarms: float | None = None,
    same_camera: bool = False,
) -> Calibration:
    """Fit on the queries and gallery of a labelled set, junk and same-camera matches left out.

    With `false_alarms`, in (0, 1), it has the threshold at which that share of queries raises an
    alarm though their person is not in the gallery; `same_camera` as of `match_tracklets`.

    With `centred` each camera's mean feature, of the set's own gallery, is taken off first, as
    `match_tracklets` with `centre_with` does.

    Use a set that the model was not trained on: on training people it is far too sure.

    Raises:
        UserError: no query, no matching or no other pair, matches no nearer than others, a
            camera that cannot be centred, or too few queries for the rate of false alarms.
    """
    if false_alarms is not None and not 0 < false_alarms < 1:
        raise ArgumentError(f"false alarms: {false_alarms:g}; expected a share above 0 and below 1")
    rows = select_rows(
        "step", person_ids=features.person_ids, marks=features.marks, features=features.features
    )
    query, gallery = features.select(rows.query), features.select(rows.gallery)
    pair = query.features, gallery.features
    if centred:
        pair = centre_pair(pair[0], query.cameras, pair[1], gallery.cameras)
    distances = pairwise_distances(*pair, metric=features.origin.metric)
    labels: dict[str, Any] = {
        "query_ids": query.person_ids,
        "gallery_ids": gallery.person_ids,
        "query_cameras": query.cameras,
        "gallery_cameras": gallery.cameras,
    }
    histogram = distance_histogram(distances, **labels, bins=_BINS)
    matches, others = int(histogram.matches.sum()), int(histogram.others.sum())
    if not matches or not others:
        raise UserError(
            f"calibration: {matches} matching and {others} other pairs; expected some of both, of "
            "queries and gallery entries of known people"
        )
    middles = (histogram.edges[1:] + histogram.edges[:-1]) / 2
    intercept, slope = fit_logistic(middles, histogram.matches, histogram.others)
    if slope >= 0:
        raise UserError(
            "calibration: matches are no nearer than other pairs; expected features of a trained "
            "model"
        )
    alarms = None
    if false_alarms is not None:
        alarms = alarm_threshold(distances, labels, false_alarms, same_camera=same_camera)
    return Calibration(
        intercept,
        slope,
        matches / (matches + others),
        features.origin,
        matches,
        others,
        data=features.image_dir,
        centred=centred,
        alarms=alarms,
        dimensions=features.features.shape[1],
    )


def alarm_threshold(
    distances: Float[np.ndarray, "q g"],
    labels: Mapping[str, Any],
    false_alarms: float,
    *,
    same_camera: bool,
) -> AlarmThreshold:
    """The threshold for a share of false alarms; `labels` as `open_set_scores` has them.

    Raises UserError where there are too few queries to know it.
    """
    found = open_set_scores(
        distances, **labels, separate_camera_set=not same_camera, alarm_rates=(false_alarms,)
    ).identification
    (point,) = found.points
    if not math.isfinite(point.threshold):
        least = f"; {1 / found.others:.2g} is the least here" if found.others else ""
        raise UserError(
            f"calibration: {found.others} queries whose person can be left out, {found.genuine} "
            f"with a match; expected {point.needed} or more for false alarms of "
            f"{100 * false_alarms:g} %{least}"
        )
    away = labels["gallery_ids"] != JUNK_ID
    cameras, counts = np.unique(labels["gallery_cameras"][away], return_counts=True)
    own = np.zeros(len(labels["query_cameras"]), np.int64)
    if not same_camera and len(cameras):
        at = np.searchsorted(cameras, labels["query_cameras"]).clip(max=len(cameras) - 1)
        own = np.where(cameras[at] == labels["query_cameras"], counts[at], 0)
    return AlarmThreshold(
        false_alarms=false_alarms,
        distance=point.threshold,
        identified=point.true_rate,
        ends=point.ends,
        impostors=found.others,
        list_size=int(np.median(away.sum() - own)),
        same_camera=same_camera,
    )


def fit_logistic(
    values: Float[np.ndarray, " b"], matches: np.ndarray, others: np.ndarray
) -> tuple[float, float]:
    """Intercept and slope for `values` at which so many `matches` and `others` [b] were counted.

    The loss is convex, and Platt's targets keep its minimum finite where matches and others do not
    overlap.
    """
    total_matches, total_others = matches.sum(), others.sum()
    counts = (matches + others).astype(np.float64)
    used = counts > 0
    counts, x = counts[used], values[used]
    target = (
        matches[used] * (total_matches + 1) / (total_matches + 2)
        + others[used] / (total_others + 2)
    ) / counts
    middle, spread = np.average(x, weights=counts), max(float(np.ptp(x)), 1e-12)
    design = np.stack([np.ones_like(x), (x - middle) / spread], axis=1)
    shares = counts / counts.sum()

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = design @ weights
        gradient = design.T @ (shares * (expit(logits) - target))
        return float(shares @ (np.logaddexp(0, logits) - target * logits)), gradient

    def hessian(weights: np.ndarray) -> np.ndarray:
        fitted = expit(design @ weights)
        return (design.T * (shares * fitted * (1 - fitted))) @ design

    start = np.array([logit(shares @ target), 0.0])
    options = {"gtol": 1e-10}
    found = minimize(loss, start, jac=True, hess=hessian, method="trust-exact", options=options)
    slope = float(found.x[1]) / spread
    return float(found.x[0]) - slope * float(middle), slope
