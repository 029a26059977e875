"""Each camera's mean feature taken off, against loops, and what comes after it."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ranking_loops import chosen_rows, distances_of

from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.errors import UserError
from stf_jax.evaluation.centring import camera_means, centre_pair
from stf_jax.evaluation.reranking import rerank_features
from stf_jax.evaluation.scoring import check_centring, protocol_distances

RNG = np.random.default_rng(0)
N, D = 60, 5
CAMERAS = RNG.integers(1, 4, N)
# Cameras lie far apart, people close together.
FEATURES = (9 * np.eye(D)[CAMERAS] + RNG.normal(size=(N, D))).astype(np.float32)
FEATURES[[3, 40]] = 0  # no image of these could be read


def slow_mean(features: np.ndarray, cameras: np.ndarray, camera: int) -> np.ndarray:
    own = [
        f.astype(float).tolist()
        for f, c in zip(features, cameras, strict=True)
        if c == camera and f.any()
    ]
    return np.array([sum(f[d] for f in own) / len(own) for d in range(features.shape[1])])


def slow_centred(features: np.ndarray, cameras: np.ndarray, means: dict[int, Any]) -> np.ndarray:
    found = np.zeros(features.shape)
    for row, camera in enumerate(cameras.tolist()):
        if features[row].any():
            rest = features[row] - means[camera]
            found[row] = rest / np.sqrt((rest**2).sum())
    return found


def parts() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return FEATURES[:25], CAMERAS[:25], FEATURES[25:], CAMERAS[25:]


def test_means_of_the_gallery() -> None:
    query, query_cameras, gallery, gallery_cameras = parts()
    means = {c: slow_mean(gallery, gallery_cameras, c) for c in (1, 2, 3)}
    found = centre_pair(*parts())
    np.testing.assert_allclose(found[0], slow_centred(query, query_cameras, means), atol=1e-6)
    np.testing.assert_allclose(found[1], slow_centred(gallery, gallery_cameras, means), atol=1e-6)
    assert not found[0][3].any()
    # Of a camera that the gallery lacks: of the queries.
    kept = gallery_cameras != 2
    means[2] = slow_mean(query, query_cameras, 2)
    found = centre_pair(query, query_cameras, gallery[kept], gallery_cameras[kept])
    np.testing.assert_allclose(found[0], slow_centred(query, query_cameras, means), atol=1e-6)
    np.testing.assert_allclose(
        found[1], slow_centred(gallery, gallery_cameras, means)[kept], atol=1e-6
    )


def test_means_of_another_set() -> None:
    query, query_cameras, gallery, gallery_cameras = parts()
    others, their_cameras = FEATURES[::-1] + 1, CAMERAS[::-1]
    means = {c: slow_mean(others, their_cameras, c) for c in (1, 2, 3)}
    found = centre_pair(*parts(), camera_means(others, their_cameras))
    np.testing.assert_allclose(found[0], slow_centred(query, query_cameras, means), atol=1e-6)
    np.testing.assert_allclose(found[1], slow_centred(gallery, gallery_cameras, means), atol=1e-6)


def test_cameras_that_cannot_be_centred(caplog: pytest.LogCaptureFixture) -> None:
    query, query_cameras, gallery, gallery_cameras = parts()
    means = camera_means(gallery[gallery_cameras != 3], gallery_cameras[gallery_cameras != 3])
    with pytest.raises(UserError, match="centring: no tracklet of camera 3 to take its mean"):
        centre_pair(*parts(), means)
    alone = gallery_cameras.copy()
    alone[4] = 9
    with pytest.raises(UserError, match=r"centring: 1 tracklet of camera 9 .*2 at least"):
        centre_pair(query, query_cameras, gallery, alone)
    caplog.clear()
    alone[5:7] = 9
    with caplog.at_level(logging.WARNING):
        centre_pair(query, query_cameras, gallery, alone)
    (record,) = caplog.records
    assert "camera 9 (3)" in record.getMessage()


def test_copies_of_which_nothing_is_left_are_refused() -> None:
    query, query_cameras, gallery, gallery_cameras = parts()
    gallery = gallery.copy()
    gallery[gallery_cameras == 3] = gallery[gallery_cameras == 3][0]
    with pytest.raises(UserError, match="centring: nothing is left of features of camera 3"):
        centre_pair(query, query_cameras, gallery, gallery_cameras)


def make_table() -> TrackletTable:
    people = np.arange(N) % 12 - 1
    return TrackletTable(
        image_dir=Path("images"),
        names=np.full(N, b"x"),
        offsets=np.arange(N + 1),
        person_ids=people,
        cameras=CAMERAS,
        tracks=np.arange(N),
        marks=(np.arange(N) % 3).astype(np.int8),
        labels=np.full(N, -1),
    )


@pytest.mark.parametrize("protocol", ["step", "step+queries", "mars-official"])
@pytest.mark.parametrize("centring", ["gallery", "training"])
@pytest.mark.parametrize("pool", ["", "mean"])
def test_pooling_distances_and_reranking_see_centred_features(
    protocol: str, centring: str, pool: str
) -> None:
    table = make_table()
    _, _, _, gallery = chosen_rows(FEATURES, table, protocol, pool)
    others = FEATURES[::-1] * 2
    source = (FEATURES[gallery], CAMERAS[gallery]) if centring == "gallery" else (others, CAMERAS)
    means = {c: slow_mean(*source, c) for c in (1, 2, 3)}
    centred = slow_centred(FEATURES, CAMERAS, means)
    query, rows, pooled, gallery = chosen_rows(centred, table, protocol, pool)
    options: dict[str, Any] = {
        "centring": centring,
        "means": camera_means(others, CAMERAS) if centring == "training" else None,
        "multi_query": pool,
    }
    for distance in ("euclidean", "cosine"):
        found = protocol_distances(FEATURES, table, protocol, distance=distance, **options)
        wanted = distances_of(query, centred[gallery], distance)
        # The products that distances come from leave little of those near zero.
        np.testing.assert_allclose(found.distances, wanted, atol=1e-3)
        assert found.query_rows.tolist() == rows
        assert found.pooled.tolist() == pooled
        assert found.gallery_rows.tolist() == gallery
        plain = protocol_distances(FEATURES, table, protocol, distance=distance)
        assert distance == "euclidean" or not np.allclose(plain.distances[0], wanted[0], atol=1e-2)
    if not pool:  # bit for bit: of re-ranking's nearest neighbours rounding decides some
        found = protocol_distances(FEATURES, table, protocol, reranked=True, **options)
        pair = FEATURES[rows], CAMERAS[rows], FEATURES[gallery], CAMERAS[gallery]
        wanted = rerank_features(*centre_pair(*pair, options["means"]))
        np.testing.assert_array_equal(found.distances, wanted)


def test_means_come_with_the_centring_that_takes_them() -> None:
    table, means = make_table(), camera_means(FEATURES, CAMERAS)
    for centring, given in (("training", None), ("gallery", means)):
        with pytest.raises(ValueError, match="expected means with 'training' alone"):
            protocol_distances(FEATURES, table, "step", centring=centring, means=given)


def test_what_cannot_be_centred_is_known_from_the_tables() -> None:
    table = make_table()
    check_centring(table, "step", centring="gallery", training=table)
    check_centring(table, "step", centring="training", training=table)
    cameras = table.cameras.copy()
    cameras[cameras == 2] = 1
    few = TrackletTable(**{**vars(table), "cameras": cameras})
    check_centring(table, "step", centring="none", training=few)
    check_centring(table, "step", centring="gallery", training=few)
    with pytest.raises(UserError, match="no tracklet of camera 2"):
        check_centring(table, "step", centring="training", training=few)
