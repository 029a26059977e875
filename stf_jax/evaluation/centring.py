"""Camera centring: each camera's mean feature taken off, and with it much of its colours and view.

Labels are not used. Features are taken as they are in a file, of unit length, and are of unit
length again afterwards.
"""

import functools
import logging
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from stf_jax.errors import UserError

LEAST = 1e-6  # length of a centred feature; of a shorter one rounding alone is left
_BLOCK_ROWS = 4096
FEW_TRACKLETS = 10  # whose mean is so rough that a line in the log says so

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class CameraMeans:
    """The mean feature of each of C cameras, over its tracklets that have a feature."""

    cameras: Int64[np.ndarray, " c"]  # ascending
    means: Float[np.ndarray, "c d"]  # float64
    counts: Int64[np.ndarray, " c"]  # tracklets of each


def camera_means(
    features: Float[np.ndarray, "n d"], cameras: Int64[np.ndarray, " n"]
) -> CameraMeans:
    """Means of `features`; rows that are zero (no image could be read) are left out."""
    seen = np.asarray(features.any(axis=1))
    there = np.unique(cameras[seen])
    sums, counts = np.zeros((len(there), features.shape[1])), np.zeros(len(there), np.int64)
    for start in range(0, len(features), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        at = np.searchsorted(there, cameras[rows][seen[rows]])
        np.add.at(sums, at, features[rows][seen[rows]].astype(np.float64))
        counts += np.bincount(at, minlength=len(there))
    return CameraMeans(there, sums / np.maximum(counts, 1)[:, None], counts)


def centre_pair(
    query: Float[np.ndarray, "q d"],
    query_cameras: Int64[np.ndarray, " q"],
    gallery: Float[np.ndarray, "g d"],
    gallery_cameras: Int64[np.ndarray, " g"],
    means: CameraMeans | None = None,
) -> tuple[Float[np.ndarray, "q d"], Float[np.ndarray, "g d"]]:
    """Centre query and gallery features, float32: each less its camera's mean, of unit length.

    The means are `centring_means`'. Rows that are zero stay zero.

    Raises UserError as it does, and where nothing is left of a feature: it is its camera's mean.
    """
    means = centring_means(query, query_cameras, gallery, gallery_cameras, means)
    return less_means(means, query, query_cameras), less_means(means, gallery, gallery_cameras)


def centring_means(
    query: Float[np.ndarray, "q d"],
    query_cameras: Int64[np.ndarray, " q"],
    gallery: Float[np.ndarray, "g d"],
    gallery_cameras: Int64[np.ndarray, " g"],
    means: CameraMeans | None = None,
) -> CameraMeans:
    """Return the means to centre with: `means`, which are of other tracklets of the same cameras.

    None takes the gallery's own, and of a camera that the gallery lacks the queries'. A mean of
    fewer than `FEW_TRACKLETS` is named in the log.

    Raises UserError for a camera that `means` lacks, or whose mean is of a single tracklet: nothing
    would be left of that one.
    """
    if means is None:
        others = ~np.isin(query_cameras, gallery_cameras)
        of_sets = (
            camera_means(gallery, gallery_cameras),
            camera_means(query[others], query_cameras[others]),
        )
        cameras = np.concatenate([of.cameras for of in of_sets])
        order = np.argsort(cameras)
        means = CameraMeans(
            cameras[order],
            np.concatenate([of.means for of in of_sets])[order],
            np.concatenate([of.counts for of in of_sets])[order],
        )
    pairs = ((query, query_cameras), (gallery, gallery_cameras))
    _check(means, np.unique(np.concatenate([of[f.any(axis=1)] for f, of in pairs])))
    return means


def _check(means: CameraMeans, needed: Int64[np.ndarray, " n"]) -> None:
    counts = dict(zip(means.cameras.tolist(), means.counts.tolist(), strict=True))
    for camera in needed.tolist():
        found = counts.get(camera, 0)
        if found < 2:
            tracklets = "1 tracklet" if found else "no tracklet"
            raise UserError(
                f"centring: {tracklets} of camera {camera} to take its mean feature of; expected "
                f"{FEW_TRACKLETS} or more, 2 at least; use those of another set, leave that camera "
                "out, or do not centre"
            )
    few = [f"{c} ({counts[c]})" for c in needed.tolist() if counts[c] < FEW_TRACKLETS]
    if few:
        _note(", ".join(few))


@functools.cache  # once a program, however often it evaluates
def _note(few: str) -> None:
    _LOG.warning("centring: the means of cameras of few tracklets are rough: camera %s", few)


def less_means(
    means: CameraMeans, features: Float[np.ndarray, "n d"], cameras: Int64[np.ndarray, " n"]
) -> Float[np.ndarray, "n d"]:
    """Each feature less its camera's mean, of unit length, float32; rows that are zero stay zero.

    `means` has every camera of the others, as `centring_means` checks. Raises UserError where
    nothing is left of a feature.
    """
    found = np.empty(features.shape, np.float32)
    for start in range(0, len(features), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        found[block] = _less(means, features[block], cameras[block])
    return found


def _less(
    means: CameraMeans, features: Float[np.ndarray, "n d"], cameras: Int64[np.ndarray, " n"]
) -> Float[np.ndarray, "n d"]:
    rows = {camera: row for row, camera in enumerate(means.cameras.tolist())}
    seen = features.any(axis=1)
    at = [rows[camera] for camera in cameras[seen].tolist()]
    rest = features[seen].astype(np.float64) - means.means[at]
    lengths = np.linalg.norm(rest, axis=1, keepdims=True)
    nothing = np.unique(cameras[seen][lengths[:, 0] < LEAST]).tolist()
    if nothing:
        raise UserError(
            f"centring: nothing is left of features of camera {nothing[0]}, which are as its mean; "
            "expected tracklets that differ; leave out copies, or do not centre"
        )
    found = np.zeros(features.shape, np.float32)
    found[seen] = rest / lengths
    return found
