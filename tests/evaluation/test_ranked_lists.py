"""Lists, histograms and camera pairs against plain loops."""

from typing import Any

import numpy as np
import pytest

from stf_jax.evaluation import rank_gallery
from stf_jax.evaluation.pages.report import outcomes
from stf_jax.evaluation.ranked_lists import camera_pairs, distance_histogram, nearest


def make_case(seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Few distinct distances (ties), few identities and cameras, some junk."""
    rng = np.random.default_rng(seed)
    num_queries, size = 12, 30
    labels = {
        "query_ids": rng.integers(0, 5, num_queries),
        "gallery_ids": rng.integers(-1, 5, size),
        "query_cameras": rng.integers(1, 4, num_queries),
        "gallery_cameras": rng.integers(1, 4, size),
    }
    return rng.integers(0, 8, (num_queries, size)).astype(np.float32), labels


def may_hold(labels: dict[str, Any], q: int, g: int, separate: bool = False) -> bool:
    same_camera = labels["query_cameras"][q] == labels["gallery_cameras"][g]
    same_person = labels["query_ids"][q] == labels["gallery_ids"][g]
    return labels["gallery_ids"][g] != -1 and not (same_camera and (separate or same_person))


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_nearest(seed: int, separate: bool) -> None:
    distances, labels = make_case(seed)
    lists = nearest(distances, 25, **labels, separate_camera_set=separate)
    for q in range(len(distances)):
        kept = [g for g in range(30) if may_hold(labels, q, g, separate)]
        wanted = sorted(kept, key=lambda g: (distances[q, g], g))[:25]
        found = lists.entries[q][lists.entries[q] >= 0]
        assert found.tolist() == wanted
        assert lists.distances[q, : len(wanted)].tolist() == distances[q, wanted].tolist()
        assert np.isinf(lists.distances[q, len(wanted) :]).all()


@pytest.mark.parametrize("seed", range(5))
def test_first_right_entry_is_the_ranking_s(seed: int) -> None:
    distances, labels = make_case(seed)
    ranking = rank_gallery(distances, **labels)
    lists = nearest(distances, 30, **labels)
    known = outcomes(lists, ranking, labels["query_ids"], labels["gallery_ids"])
    for right, first in zip(known.right, ranking.first_ranks, strict=True):
        assert (np.argmax(right) + 1 if right.any() else 0) == first
    assert known.right.sum(1).tolist() == ranking.match_counts.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_histogram(seed: int) -> None:
    distances, labels = make_case(seed)
    found = distance_histogram(distances, **labels, bins=4)
    counts = np.zeros((2, 4), int)
    for q in range(12):
        for g in range(30):
            if may_hold(labels, q, g):
                bin_ = min(int((distances[q, g] - found.edges[0]) / 1.75), 3)
                other = int(labels["query_ids"][q] != labels["gallery_ids"][g])
                counts[other, bin_] += 1
    np.testing.assert_allclose(found.edges, [0, 1.75, 3.5, 5.25, 7])
    assert found.matches.tolist() == counts[0].tolist()
    assert found.others.tolist() == counts[1].tolist()


def test_camera_pairs() -> None:
    distances, labels = make_case(0)
    pairs = camera_pairs(distances, **labels, protocol="step")
    assert [(p.query_camera, p.gallery_camera) for p in pairs] == [
        (q, g) for q in (1, 2, 3) for g in (1, 2, 3)
    ]
    for pair in pairs:
        if pair.query_camera == pair.gallery_camera:
            assert (pair.valid_queries, pair.mean_ap, pair.rank_1) == (0, None, None)
            continue
        precisions, firsts = [], []
        for q in np.flatnonzero(labels["query_cameras"] == pair.query_camera).tolist():
            kept = [
                g
                for g in range(30)
                if may_hold(labels, q, g) and labels["gallery_cameras"][g] == pair.gallery_camera
            ]
            kept.sort(key=lambda g: (distances[q, g], g))
            right = [labels["gallery_ids"][g] == labels["query_ids"][q] for g in kept]
            if any(right):
                hits = np.flatnonzero(right)
                precisions.append(np.mean((np.arange(len(hits)) + 1) / (hits + 1)))
                firsts.append(right[0])
        assert pair.valid_queries == len(precisions)
        assert pair.mean_ap == pytest.approx(np.mean(precisions))
        assert pair.rank_1 == pytest.approx(np.mean(firsts))


def test_without_any_entry() -> None:
    distances, labels = make_case(0)
    labels["gallery_ids"] = np.full(30, -1)
    assert (nearest(distances, 3, **labels).entries == -1).all()
    assert distance_histogram(distances, **labels).matches.sum() == 0
