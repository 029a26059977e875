"""Single-gallery-shot ranks against every possible gallery, enumerated."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_jax.evaluation import rank_gallery
from stf_jax.evaluation.match_ranks import make_labels
from stf_jax.evaluation.single_shot import single_shot_ranks


def expected_cmc(distances, labels, separate_camera_set, max_rank):
    """Exact chances over all galleries of one entry an identity, all equally likely, per query."""
    query_ids, gallery_ids, query_cameras, gallery_cameras = labels
    rows = []
    for q in range(len(query_ids)):
        choices = {}
        for g, identity in enumerate(gallery_ids):
            own = identity == query_ids[q]
            if identity == -1:
                continue
            if gallery_cameras[g] == query_cameras[q] and (own or separate_camera_set):
                continue
            choices.setdefault(int(identity), []).append(g)
        if int(query_ids[q]) not in choices:
            rows.append(np.full(max_rank, np.nan))
            continue
        galleries = list(itertools.product(*choices.values()))
        cmc = np.zeros(max_rank)
        for gallery in galleries:
            ordered = sorted(gallery, key=lambda g: (distances[q][g], g))
            rank = [int(gallery_ids[g]) for g in ordered].index(int(query_ids[q])) + 1
            cmc[rank - 1 :] += 1 / len(galleries)
        rows.append(cmc)
    return np.stack(rows)


def make_case(seed, levels=1000):
    random = np.random.default_rng(seed)
    distances = random.integers(0, levels, (5, 12)) / levels
    labels = (
        random.integers(-1, 4, 5),
        random.integers(-1, 4, 12),
        random.integers(0, 3, 5),
        random.integers(0, 3, 12),
    )
    return distances, labels


def rank(distances, labels, **options):
    return rank_gallery(
        distances,
        query_ids=labels[0],
        gallery_ids=labels[1],
        query_cameras=labels[2],
        gallery_cameras=labels[3],
        max_rank=4,
        single_gallery_shot=True,
        **options,
    )


@pytest.mark.parametrize("separate_camera_set", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_draws_tend_to_the_exact_chances(seed, separate_camera_set):
    distances, labels = make_case(seed, levels=6)
    result = rank(distances, labels, separate_camera_set=separate_camera_set, draws=4000)
    exact = expected_cmc(distances, labels, separate_camera_set, 4)
    # Five standard deviations of a share over 4,000 draws are below 0.04.
    np.testing.assert_allclose(result.query_cmc, exact, atol=0.04)
    assert result.valid_queries == np.count_nonzero(~np.isnan(exact[:, 0]))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([1, 2, 1000]))
def test_one_entry_an_identity_leaves_no_chance(seed, separate_camera_set, levels):
    """With nothing to draw, any draw is the exact answer, ties included."""
    random = np.random.default_rng(seed)
    distances = random.integers(0, levels, (4, 7)) / levels
    labels = (
        random.integers(-1, 8, 4),
        random.permutation(8)[:7] - 1,
        random.integers(0, 2, 4),
        random.integers(0, 2, 7),
    )
    result = rank(distances, labels, separate_camera_set=separate_camera_set, draws=3)
    exact = expected_cmc(distances, labels, separate_camera_set, 4)
    np.testing.assert_allclose(result.query_cmc, exact, atol=1e-12)


def test_queries_of_a_draw_meet_one_gallery():
    """Two equal queries of one camera get equal ranks in every draw, and draws differ."""
    random = np.random.default_rng(3)
    distances = np.repeat(random.random((1, 60)), 2, axis=0)
    gallery_ids, cameras = random.integers(0, 6, 60), random.integers(0, 3, 60)
    labels = make_labels(np.array([2, 2]), gallery_ids, np.array([1, 1]), cameras, False)
    ranks = single_shot_ranks(distances, labels, draws=50, seed=0)
    np.testing.assert_array_equal(ranks[:, 0], ranks[:, 1])
    assert len(np.unique(ranks)) > 1


def test_seeded():
    distances, labels = make_case(9)
    first, again = (rank(distances, labels, seed=4) for _ in range(2))
    np.testing.assert_array_equal(first.query_cmc, again.query_cmc)
    assert not np.array_equal(
        rank(distances, labels, seed=5, draws=7).query_cmc,
        rank(distances, labels, seed=4, draws=7).query_cmc,
    )


def test_precision_still_sees_the_whole_gallery():
    distances, labels = make_case(1)
    names = ("query_ids", "gallery_ids", "query_cameras", "gallery_cameras")
    whole = rank_gallery(distances, **dict(zip(names, labels, strict=True)))
    assert rank(distances, labels).mean_ap == whole.mean_ap
