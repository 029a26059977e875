"""The nearest by blocks against a sort of every distance, on both paths; the memory it takes."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from stf_jax.evaluation import best_matches as module
from stf_jax.evaluation import pairwise_distances
from stf_jax.evaluation.arguments import ArgumentError
from stf_jax.evaluation.best_matches import Candidates, best_matches
from stf_jax.evaluation.centring import camera_means, centre_pair

TILES = {"_QUERIES": 7, "_TILE": 70, "_DEVICE_TILE": 70}


def drawn(seed: int, queries: int, gallery: int, dimensions: int = 6, levels: int = 0) -> Any:
    """Features, with rows of zeros, of few `levels` many distances are equal; and candidates."""
    rng = np.random.default_rng(seed)
    pair = [rng.normal(size=(n, dimensions)).astype(np.float32) for n in (queries, gallery)]
    if levels:
        pair = [np.round(of * levels) / levels for of in pair]
    for of in pair:
        of[rng.random(len(of)) < 0.1] = 0
    own = np.flatnonzero(rng.random(gallery) < 0.2)
    cameras = [np.sort(rng.integers(1, 4, n)) for n in (queries, gallery)]
    return pair, cameras, (rng.integers(0, queries, len(own)), own)


def sorted_lists(distances, pair, cameras, own, count: int, same_camera: bool):
    """Entries of each list, by a loop."""
    never = set(zip(*(rows.tolist() for rows in own), strict=True))
    lists = []
    for q in range(len(distances)):
        kept = [
            g
            for g in range(distances.shape[1])
            if pair[0][q].any()
            and pair[1][g].any()
            and (same_camera or cameras[0][q] != cameras[1][g])
            and (q, g) not in never
        ]
        lists.append(sorted(kept, key=lambda g, q=q: (distances[q, g], g))[:count])
    return lists


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(
    ("size", "count", "same_camera"),
    [((23, 61), 5, False), ((23, 61), 61, True), ((1, 9), 3, True), ((20, 4), 9, False)],
)
@pytest.mark.parametrize("centred", [False, True])
def test_equal_to_sorted_lists(
    accelerator: bool,
    metric: str,
    size: tuple[int, int],
    count: int,
    same_camera: bool,
    centred: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in TILES.items():
        monkeypatch.setattr(module, name, value)
    (query, gallery), cameras, own = drawn(4, *size)
    means, pair = None, (query, gallery)
    if centred:
        rng = np.random.default_rng(8)
        means = camera_means(rng.normal(size=(30, 6)), np.repeat([1, 2, 3], 10))
        pair = centre_pair(query, cameras[0], gallery, cameras[1], means)
    found = best_matches(
        query,
        gallery,
        count,
        Candidates(cameras[0], cameras[1], same_camera, own[0], own[1]),
        metric=metric,
        means=means,
        accelerator=accelerator,
    )
    distances = pairwise_distances(*pair, metric=metric)
    wanted = sorted_lists(distances, (query, gallery), cameras, own, count, same_camera)
    assert found.entries.shape == (size[0], min(count, size[1]))
    for row, entries in enumerate(wanted):
        blank = found.entries.shape[1] - len(entries)
        assert found.entries[row].tolist() == entries + [-1] * blank
        np.testing.assert_allclose(
            found.distances[row, : len(entries)], distances[row, entries], atol=1e-3
        )
        assert np.isinf(found.distances[row, len(entries) :]).all()
    assert any(wanted)


def test_equal_distances_by_gallery_row(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TILES.items():
        monkeypatch.setattr(module, name, value)
    pair, cameras, own = drawn(3, 15, 90, dimensions=2, levels=1)
    distances = pairwise_distances(*pair)
    assert len(np.unique(distances)) < 20
    wanted = sorted_lists(distances, pair, cameras, own, 12, False)
    for accelerator in (False, True):
        found = best_matches(
            pair[0],
            pair[1],
            12,
            Candidates(cameras[0], cameras[1], False, own[0], own[1]),
            accelerator=accelerator,
        )
        assert [[e for e in row if e >= 0] for row in found.entries.tolist()] == wanted


def test_memory_is_of_tiles_not_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    query = rng.normal(size=(2000, 8)).astype(np.float32)
    gallery = rng.normal(size=(60_000, 8)).astype(np.float32)
    candidates = Candidates(
        np.ones(2000, np.int64), np.full(60_000, 2), False, np.arange(0), np.arange(0)
    )
    tracemalloc.start()
    best_matches(query, gallery, 10, candidates, accelerator=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2000 * 60_000 / 3  # a third of the matrix of float32


def test_features_that_are_not_finite() -> None:
    pair, cameras, own = drawn(1, 5, 9)
    pair[1][7, 2] = np.nan
    with pytest.raises(ArgumentError, match="gallery_features: NaN at row 7, column 2"):
        best_matches(pair[0], pair[1], 3, Candidates(cameras[0], cameras[1], False, own[0], own[1]))
