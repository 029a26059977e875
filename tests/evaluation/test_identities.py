"""Identities against all partitions of few tracklets; constraints; scores against loops."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stf_jax.errors import UserError
from stf_jax.evaluation import pairwise_distances
from stf_jax.evaluation.identities import (
    Presence,
    cannot_link,
    find_identities,
    identity_scores,
    pair_cost,
)


def partitions(count: int) -> Iterator[list[int]]:
    """Labels of every partition of `count` things."""

    def grow(labels: list[int]) -> Iterator[list[int]]:
        if len(labels) == count:
            yield labels
            return
        for label in range(max(labels, default=-1) + 2):
            yield from grow([*labels, label])

    yield from grow([])


def allowed(labels, forbidden: np.ndarray) -> bool:
    same = np.equal.outer(labels, labels)
    return not (same & forbidden).any()


def drawn(seed: int, count: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features about a centre a person, the people, and forbidden pairs of two people."""
    rng = np.random.default_rng(seed)
    people = rng.integers(0, 3, count)
    features = 4 * np.eye(3, 6)[people] + rng.normal(size=(count, 6)) * 0.25
    forbidden = np.triu(rng.random((count, count)) < 0.3, 1) & (people[:, None] != people)
    return features.astype(np.float32), people, forbidden | forbidden.T


def test_there_are_as_many_partitions_as_bell_says() -> None:
    assert [len(list(partitions(n))) for n in range(1, 9)] == [1, 2, 5, 15, 52, 203, 877, 4140]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_all_partitions(metric: str, seed: int) -> None:
    """Where people stand apart, and one pair of them looks alike but cannot be one person."""
    features, people, forbidden = drawn(seed)
    features[1] = features[0]
    forbidden[0, :] |= people == people[1]  # a twin: at the same time in the same camera
    forbidden[0, 0] = False
    forbidden[:, 0] = forbidden[0, :]
    threshold = {"euclidean": 3.0, "cosine": 0.5}[metric]
    distances = pairwise_distances(features, features, metric=metric)
    costs = {
        tuple(labels): pair_cost(distances, np.array(labels), threshold)
        for labels in partitions(8)
        if allowed(labels, forbidden)
    }
    best = min(costs, key=lambda labels: costs[labels])
    found = find_identities(features, forbidden, metric=metric, threshold=threshold)
    assert tuple(found.labels.tolist()) == best
    assert found.count == max(best) + 1
    again = find_identities(features, forbidden, metric=metric, people=found.count)
    assert again.labels.tolist() == found.labels.tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.floats(0, 1), st.floats(0.01, 20))
def test_what_cannot_be_one_person_never_is(
    seed: int, count: int, share: float, threshold: float
) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 3)).astype(np.float32)
    forbidden = np.triu(rng.random((count, count)) < share, 1)
    forbidden |= forbidden.T
    found = find_identities(features, forbidden, threshold=threshold)
    assert allowed(found.labels, forbidden)
    # Greedy linkage by hand: the nearest two groups that may be joined, while below the threshold.
    distances = pairwise_distances(features, features).astype(float)
    groups = [[row] for row in range(count)]
    while True:
        means: dict[tuple[int, int], float] = {
            (a, b): float(np.mean([distances[i, j] for i in one for j in other]))
            for (a, one), (b, other) in itertools.combinations(enumerate(groups), 2)
            if not any(forbidden[i, j] for i in one for j in other)
        }
        if not means or min(means.values()) >= threshold:
            break
        a, b = min(means, key=lambda pair: means[pair])
        groups[a] += groups.pop(b)
    labels = np.empty(count, int)
    for number, group in enumerate(sorted(map(sorted, groups))):
        labels[group] = number
    assert found.labels.tolist() == labels.tolist()
    for row in range(count):
        own = [distances[row, j] for j in range(count) if labels[j] == labels[row] and j != row]
        assert found.distances[row] == pytest.approx(np.mean(own) if own else np.nan, nan_ok=True)
        away = [np.inf]
        for label in set(labels.tolist()) - {labels[row]}:
            rows = np.flatnonzero(labels == label)
            if not forbidden[row, rows].any():
                away.append(distances[row, rows].mean())
        assert found.others[row] == pytest.approx(min(away))
        doubt = bool(own) and (np.mean(own) >= 0.9 * threshold or min(away) < np.mean(own))
        assert found.doubtful[row] == doubt


def test_fewer_people_than_can_be() -> None:
    features = np.eye(4, dtype=np.float32)
    forbidden = ~np.eye(4, dtype=bool)
    forbidden[2:, 2:] = False
    with pytest.raises(UserError, match="people: 2; expected 3 or more"):
        find_identities(features, forbidden, people=2)
    assert find_identities(features, forbidden, people=3).labels.tolist() == [0, 1, 2, 2]
    with pytest.raises(UserError, match="people: 5; expected 1 to 4"):
        find_identities(features, forbidden, people=5)


@pytest.mark.parametrize("timed", [False, True])
def test_pairs_that_cannot_be_one_person(timed: bool) -> None:
    rng = np.random.default_rng(2)
    count = 60
    starts = rng.integers(0, 40, count).astype(float)
    ends = starts + rng.integers(0, 9, count)
    starts[:5] = ends[:5] = np.nan
    clocks, cameras = rng.integers(0, 2, count), rng.integers(1, 4, count)
    travel = {(1, 2): 6.0, (2, 1): 3.0, (3, 1): 4.0, (2, 3): 0.0} if timed else {}
    found = cannot_link(Presence(clocks, cameras, starts, ends), travel)
    for i, j in itertools.product(range(count), repeat=2):
        wanted = False
        if i != j and clocks[i] == clocks[j]:
            a, b = (i, j) if starts[i] <= starts[j] else (j, i)
            together = starts[b] <= ends[a]
            if cameras[i] == cameras[j]:
                wanted = together
            else:
                way = (cameras[a], cameras[b])
                least = travel.get(way, travel.get(way[::-1]))
                if least is not None and not together:
                    wanted = starts[b] - ends[a] < least
                elif least is not None:
                    wanted = together and max(least, travel.get(way[::-1], least)) > 0
        assert found[i, j] == wanted, (i, j)
    assert found.any()


def test_scores_are_those_of_loops() -> None:
    rng = np.random.default_rng(5)
    for _ in range(30):
        count = int(rng.integers(1, 9))
        labels, truth = rng.integers(0, 4, count), rng.integers(5, 9, count)
        frames = rng.integers(1, 20, count)
        found = identity_scores(labels, truth, frames)
        pairs = list(itertools.combinations(range(count), 2))
        joined = {(i, j) for i, j in pairs if labels[i] == labels[j]}
        true = {(i, j) for i, j in pairs if truth[i] == truth[j]}
        precision = len(joined & true) / len(joined) if joined else np.nan
        recall = len(joined & true) / len(true) if true else np.nan
        assert found["pairwise precision"] == pytest.approx(precision, nan_ok=True)
        assert found["pairwise recall"] == pytest.approx(recall, nan_ok=True)
        cubed = [
            [
                np.mean([other[j] == other[i] for j in range(count) if one[j] == one[i]])
                for i in range(count)
            ]
            for one, other in ((labels, truth), (truth, labels))
        ]
        assert found["B-cubed precision"] == pytest.approx(np.mean(cubed[0]))
        assert found["B-cubed recall"] == pytest.approx(np.mean(cubed[1]))
        p, r = (float(np.mean(of)) for of in cubed)
        assert found["B-cubed F1"] == pytest.approx(2 * p * r / (p + r))
        names = sorted(set(truth.tolist())) + [None] * 4
        best = 0
        for chosen in itertools.permutations(names, 4):  # the true person of each label
            best = max(
                best,
                sum(f for f, a, b in zip(frames, labels, truth, strict=True) if chosen[a] == b),
            )
        assert found["IDF1"] == pytest.approx(best / frames.sum())


# IDF1 by TrackEval 1.3.0 (`trackeval.metrics.Identity`), given one box a frame, the frames of the
# drawn tracklets below one after the other.
TRACKEVAL = """
0.388158 0.786885 0.493333 0.343915 0.352601 0.549296 0.468468 0.484375 0.486726 1.0
0.472 0.371429 0.591549 0.417647 0.345912 0.565217 0.342857 0.535433 0.566667 0.527473
"""


def test_idf1_is_that_of_trackeval() -> None:
    rng = np.random.default_rng(0)
    for wanted in TRACKEVAL.split():
        count = int(rng.integers(2, 40))
        labels, truth = rng.integers(0, 8, (2, count))
        frames = rng.integers(1, 9, count)
        found = identity_scores(labels, truth, frames)["IDF1"]
        assert found == pytest.approx(float(wanted), abs=1e-6)
