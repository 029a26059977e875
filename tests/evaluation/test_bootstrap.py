"""Bootstrap intervals against a loop of resamples, theory, and a simulation of known truth."""

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
    """The same statistic, resampled one identity at a time from another stream of numbers."""
    ranking = make_ranking()
    assert 0 < ranking.valid_queries < ranking.num_queries
    found = bootstrap_intervals(ranking, resamples=4000, seed=1)
    assert list(found.ends) == ["mAP", "mINP", "rank-1", "rank-5", "rank-10", "rank-20"]
    random = np.random.default_rng(99)
    valid = np.flatnonzero(ranking.match_counts)
    people = np.unique(ranking.query_ids[valid])
    assert found.identities == len(people) < len(np.unique(ranking.query_ids))
    means = {name: [] for name in found.ends}
    for _ in range(2000):
        chosen = random.choice(people, len(people))
        drawn = np.concatenate([valid[ranking.query_ids[valid] == person] for person in chosen])
        means["mAP"].append(ranking.average_precisions[drawn].mean())
        means["mINP"].append(ranking.inverse_penalties[drawn].mean())
        for k in (1, 5, 10, 20):
            means[f"rank-{k}"].append((ranking.first_ranks[drawn] <= k).mean())
    for name, ends in found.ends.items():
        np.testing.assert_allclose(ends, np.percentile(means[name], [2.5, 97.5]), atol=0.01)


def alone(ranking):
    """The same ranking, each query a person of its own."""
    return dataclasses.replace(ranking, query_ids=np.arange(ranking.num_queries))


def test_width_of_a_share_is_the_binomial_one():
    ranking = alone(make_ranking(num_queries=2000))
    share, count = ranking.cmc[9], ranking.valid_queries
    low, high = bootstrap_intervals(ranking, resamples=4000).ends["rank-10"]
    wanted = 2 * 1.96 * np.sqrt(share * (1 - share) / count)
    assert high - low == pytest.approx(wanted, rel=0.1)
    assert low < share < high


def test_seeded_and_the_same_in_pieces(monkeypatch):
    ranking = make_ranking()
    whole = bootstrap_intervals(ranking, resamples=50, seed=3)
    assert whole == bootstrap_intervals(ranking, resamples=50, seed=3)
    assert whole.ends != bootstrap_intervals(ranking, resamples=50, seed=4).ends
    monkeypatch.setattr(bootstrap, "_DRAWN", 7 * whole.identities)
    assert whole.ends == bootstrap_intervals(ranking, resamples=50, seed=3).ends


def test_a_paired_difference():
    one, other = make_ranking(seed=0), make_ranking(seed=1)
    with pytest.raises(ValueError, match="same queries"):
        mean_ap_difference(one, other)
    with pytest.raises(ValueError, match="same queries"):
        mean_ap_difference(one, alone(one))
    one = alone(one)
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


def test_a_query_seen_twice_tells_nothing_new():
    ranking = make_ranking()
    names = ("query_ids", "match_counts", "average_precisions", "inverse_penalties", "query_cmc")
    twice = dataclasses.replace(
        ranking, **{name: np.repeat(getattr(ranking, name), 2, axis=0) for name in names}
    )
    ends, wanted = (bootstrap_intervals(r, resamples=200).ends for r in (twice, ranking))
    for name in wanted:
        np.testing.assert_allclose(ends[name], wanted[name], rtol=1e-12)


def draw_rankings(random, base, identities):
    """Rankings by two models whose expected mAP and rank-1 are 1/2, and whose expected gain is 0.

    People are easy or hard and their queries vary about that; so does what the second model gains.
    """
    sizes = random.integers(1, 12, identities)
    people = np.repeat(np.arange(identities), sizes)
    count = len(people)
    ease = random.beta(2, 2, identities)[people]
    gains = random.normal(0, 0.1, identities)[people] + random.normal(0, 0.1, count)
    one = dataclasses.replace(
        base,
        num_queries=count,
        query_ids=people,
        match_counts=np.ones(count, int),
        average_precisions=random.beta(4 * ease, 4 * (1 - ease)),
        inverse_penalties=ease,
        query_cmc=(random.random(count) < ease)[:, None].astype(float),
    )
    return one, dataclasses.replace(one, average_precisions=one.average_precisions + gains)


def coverage(identities, change=lambda ranking: ranking, repetitions=400):
    """How often 95 % intervals hold the truth: of mAP, rank-1 and the paired gain."""
    random, base = np.random.default_rng(identities), make_ranking(1)
    covered = np.zeros(3)
    for seed in range(repetitions):
        one, other = map(change, draw_rankings(random, base, identities))
        ends = bootstrap_intervals(one, ranks=(1,), resamples=200, seed=seed).ends
        _, low, high = mean_ap_difference(other, one, resamples=200, seed=seed)
        truths = {0.5: (ends["mAP"], ends["rank-1"]), 0.0: ((low, high),)}
        covered += [a <= truth <= b for truth, found in truths.items() for a, b in found]
    return covered / repetitions


@pytest.mark.parametrize("identities", [25, 60, 150])
def test_intervals_cover_the_truth_as_often_as_they_say(identities):
    found = coverage(identities)
    assert ((found >= 0.87) & (found <= 0.97)).all(), found


def test_queries_taken_for_independent_would_not():
    found = coverage(25, change=alone)
    assert (found < 0.87).all(), found


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
