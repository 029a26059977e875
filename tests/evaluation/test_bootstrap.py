"""Bootstrap intervals against a loop of resamples and against theory."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from stf_jax.evaluation import (
    bootstrap,
    bootstrap_intervals,
    mean_ap_difference,
    rank_gallery,
)


def make_ranking(num_queries=300, seed=0, **options):
    random = np.random.default_rng(seed)
    return rank_gallery(
        random.random((num_queries, 80)),
        query_ids=random.integers(0, 30, num_queries),
        gallery_ids=random.integers(0, 28, 80),  # two identities have no match
        query_cameras=random.integers(0, 2, num_queries),
        gallery_cameras=random.integers(0, 4, 80),
        **options,
    )


def test_against_a_loop():
    """The same statistic, resampled one query at a time from another stream of numbers."""
    ranking = make_ranking()
    assert 0 < ranking.valid_queries < ranking.num_queries
    found = bootstrap_intervals(ranking, resamples=4000, seed=1)
    assert list(found.ends) == ["mAP", "mINP", "rank-1", "rank-5", "rank-10", "rank-20"]
    random = np.random.default_rng(99)
    valid = np.flatnonzero(ranking.match_counts)
    means = {name: [] for name in found.ends}
    for _ in range(2000):
        drawn = random.choice(valid, len(valid))
        means["mAP"].append(ranking.average_precisions[drawn].mean())
        means["mINP"].append(ranking.inverse_penalties[drawn].mean())
        for k in (1, 5, 10, 20):
            means[f"rank-{k}"].append((ranking.first_ranks[drawn] <= k).mean())
    for name, ends in found.ends.items():
        np.testing.assert_allclose(ends, np.percentile(means[name], [2.5, 97.5]), atol=0.01)


def test_width_of_a_share_is_the_binomial_one():
    ranking = make_ranking(num_queries=2000)
    share, count = ranking.cmc[9], ranking.valid_queries
    low, high = bootstrap_intervals(ranking, resamples=4000).ends["rank-10"]
    wanted = 2 * 1.96 * np.sqrt(share * (1 - share) / count)
    assert high - low == pytest.approx(wanted, rel=0.1)
    assert low < share < high


def test_seeded_and_alike_in_pieces(monkeypatch):
    ranking = make_ranking()
    whole = bootstrap_intervals(ranking, resamples=50, seed=3)
    assert whole == bootstrap_intervals(ranking, resamples=50, seed=3)
    assert whole.ends != bootstrap_intervals(ranking, resamples=50, seed=4).ends
    monkeypatch.setattr(bootstrap, "_DRAWN", 7 * ranking.valid_queries)
    assert whole.ends == bootstrap_intervals(ranking, resamples=50, seed=3).ends


def test_a_paired_difference():
    one, other = make_ranking(seed=0), make_ranking(seed=1)
    with pytest.raises(ValueError, match="same queries"):
        mean_ap_difference(one, other)
    random = np.random.default_rng(5)
    gains = random.normal(0.1, 0.05, one.num_queries)
    better = dataclasses.replace(one, average_precisions=one.average_precisions + gains)
    gain, low, high = mean_ap_difference(better, one, resamples=4000)
    valid = one.match_counts > 0
    assert gain == pytest.approx(gains[valid].mean())
    # That the queries themselves differ much more is of no account.
    width = 2 * 1.96 * gains[valid].std() / np.sqrt(valid.sum())
    assert high - low == pytest.approx(width, rel=0.1)
    assert low < gain < high
    assert mean_ap_difference(one, one) == (0, 0, 0)


def test_one_valid_query_leaves_no_width():
    labels: dict[str, Any] = {"query_cameras": [1, 1], "gallery_cameras": [2, 2]}
    ranking = rank_gallery(np.eye(2), query_ids=[1, 9], gallery_ids=[1, 2], max_rank=5, **labels)
    ends = bootstrap_intervals(ranking).ends
    assert ends == {
        name: (value, value)
        for name, value in zip(
            ["mAP", "mINP", "rank-1", "rank-5"], [0.5, 0.5, 0.0, 1.0], strict=True
        )
    }
    ranking = rank_gallery(np.eye(2), query_ids=[8, 9], gallery_ids=[1, 2], **labels)
    assert np.isnan(bootstrap_intervals(ranking).ends["mAP"]).all()


def test_draws_of_a_single_gallery_shot_count_as_shares():
    ranking = make_ranking(single_gallery_shot=True, draws=20)
    low, high = bootstrap_intervals(ranking).ends["rank-5"]
    assert low < ranking.cmc[4] < high


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"level": 1.0}, "level"),
        ({"level": 95}, "level"),
        ({"resamples": 0}, "resamples"),
        ({"seed": -1}, "seed"),
        ({"ranks": (0,)}, "ranks"),
    ],
)
def test_bad_arguments_are_named(options, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        bootstrap_intervals(make_ranking(20), **options)
