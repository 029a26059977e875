"""Who is who: tracklets of all cameras and visits -> identities, scored where they are labelled.

Average linkage (Sokal and Michener, 1958) of the distances between features, joined from the
nearest on, until the mean distance of the two nearest groups reaches a threshold or so many people
are left. Two tracklets that cannot be one person never meet: the distance of such a pair is so
large that any group holding it is formed after all others, where the joining has ended.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.cluster.hierarchy import linkage
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stf_jax.errors import UserError
from stf_jax.evaluation.arguments import ArgumentError
from stf_jax.evaluation.distances import pairwise_distances

DOUBTFUL = (
    0.9  # of the threshold: from there a tracklet's mean distance to its identity is doubtful
)
# Of a pair that cannot be one person. Means of it and of true distances are never compared with
# means of true distances alone, so that its size costs no precision.
_FORBIDDEN = 1e12
_ROWS = 512  # at a time


@dataclass(frozen=True, eq=False)
class Presence:
    """When and where N tracklets were seen.

    Tracklets of one clock have comparable times; of two clocks nothing is known. An unknown time is
    NaN: then nothing follows from it.
    """

    clocks: Int[np.ndarray, " n"]
    cameras: Int[np.ndarray, " n"]
    starts: Float[np.ndarray, " n"]  # frames or seconds
    ends: Float[np.ndarray, " n"]  # the last one's, at least `starts`


@dataclass(frozen=True, eq=False)
class Identities:
    """The identity of each of N tracklets, from 0 in the order of their first tracklets."""

    labels: Int[np.ndarray, " n"]
    count: int
    threshold: float  # mean distance at which joining ended
    distances: Float[np.ndarray, " n"]  # mean to the others of its identity; NaN: it is alone
    others: Float[np.ndarray, " n"]  # least mean to an identity that it could be of; infinite: none
    doubtful: Bool[np.ndarray, " n"]  # far from its own identity, or nearer to another one


def cannot_link(
    presence: Presence, travel_times: Mapping[tuple[int, int], float] | None = None
) -> Bool[np.ndarray, "n n"]:
    """Pairs that cannot be one person, symmetric.

    One camera sees both at the same time, or the way from one camera to the other takes longer:
    `travel_times` has the least seconds from camera to camera, both ways where one alone is given
    (`presence` is in seconds then).
    """
    travel_times = travel_times or {}
    count = len(presence.cameras)
    out = np.zeros((count, count), bool)
    for rows in _blocks(count):
        clocks, cameras, starts, ends = (
            values[rows, None]
            for values in (presence.clocks, presence.cameras, presence.starts, presence.ends)
        )
        same_clock = clocks == presence.clocks
        meet = (starts <= presence.ends) & (presence.starts <= ends)
        out[rows] = same_clock & meet & (cameras == presence.cameras)
        for (one, other), go in travel_times.items():
            back = travel_times.get((other, one), go)
            for here, there, away, home in ((one, other, go, back), (other, one, back, go)):
                way = same_clock & (cameras == here) & (presence.cameras == there)
                too_fast = (presence.starts >= ends) & (presence.starts - ends < away)
                too_fast |= (starts >= presence.ends) & (starts - presence.ends < home)
                too_fast |= meet & (max(away, home) > 0)
                out[rows] |= way & too_fast
    out &= ~np.eye(count, dtype=bool)
    return out


def find_identities(
    features: Float[np.ndarray, "n d"],
    forbidden: Bool[np.ndarray, "n n"],
    *,
    metric: str = "euclidean",
    threshold: float | None = None,
    people: int | None = None,
) -> Identities:
    """Join tracklets below a mean distance of `threshold`, or until so many `people` are left.

    Memory: about 20 bytes a pair.

    Args:
        features: [N, D] floats, none of them zero.
        forbidden: pairs that are never joined (`cannot_link`).
        metric: "euclidean" or "cosine".
        threshold: a mean distance; or
        people: in 1 .. N.

    Raises:
        ArgumentError: neither or both of threshold and people, or one out of its range.
        UserError: fewer people than the forbidden pairs allow this linkage.
    """
    count = len(features)
    if (threshold is None) == (people is None):
        raise ArgumentError("threshold, people: expected one of them")
    if people is not None and not 1 <= people <= count:
        raise ArgumentError(f"people: {people}; expected 1 to {count}, the number of tracklets")
    if threshold is not None and not threshold > 0:
        raise ArgumentError(f"threshold: {threshold}; expected a distance above 0")
    steps = np.empty((0, 4))
    if count > 1:
        steps = linkage(_condensed(features, forbidden, metric), "average")
    heights = steps[:, 2]
    allowed = int(np.searchsorted(heights, _FORBIDDEN / max(1, count**2)))
    if people is None:
        assert threshold is not None
        joins = min(int(np.searchsorted(heights, threshold)), allowed)
    else:
        joins = count - people
        if joins > allowed:
            raise UserError(
                f"people: {people}; expected {count - allowed} or more, for no two of the groups "
                "that are left can be one person (seen at the same time, or too far apart)"
            )
        last = heights[joins - 1] if joins else 0.0
        threshold = float((last + heights[joins]) / 2 if joins < allowed else last)
    labels = _labels(steps[:joins], count)
    own, others = _means(features, labels, forbidden, metric)
    doubtful = (own >= DOUBTFUL * threshold) | (others < own)
    return Identities(labels, count - joins, threshold, own, others, doubtful)


def pair_cost(
    distances: Float[np.ndarray, "n n"], labels: Int[np.ndarray, " n"], threshold: float
) -> float:
    """Sum of distance less threshold over the pairs of one identity: low where joins are near.

    The objective that linkage lowers greedily; exact only where every partition can be tried.
    """
    same = np.triu(labels[:, None] == labels[None, :], 1)
    return float((distances[same] - threshold).sum())


def identity_scores(
    labels: Int[np.ndarray, " n"], truth: Int[np.ndarray, " n"], frames: Int[np.ndarray, " n"]
) -> dict[str, float]:
    """Scores in [0, 1] of identities against the true ones; NaN where undefined.

    `pairwise precision`, `recall`, `F1` of the pairs joined; `B-cubed precision`, `recall`, `F1`,
    means over tracklets (Bagga and Baldwin, 1998); `IDF1` over frames, identities matched one to
    one where that is best (Ristani et al., 2016), every true box being tracked.
    """
    cells = np.unique(np.stack([labels, truth], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    both = np.bincount(cells).astype(float)
    _, found = np.unique(labels, return_inverse=True)
    _, true = np.unique(truth, return_inverse=True)
    of_found, of_true = (np.bincount(of).astype(float) for of in (found, true))

    def joined(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    scores: dict[str, float] = {}
    right = joined(both)
    parts = {
        "pairwise": (_ratio(right, joined(of_found)), _ratio(right, joined(of_true))),
        "B-cubed": (
            float((both[cells] / of_found[found]).mean()),
            float((both[cells] / of_true[true]).mean()),
        ),
    }
    for name, (precision, recall) in parts.items():
        scores |= {f"{name} precision": precision, f"{name} recall": recall}
        scores[f"{name} F1"] = _ratio(2 * precision * recall, precision + recall)
    scores["IDF1"] = _ratio(_matched_frames(found, true, frames), float(frames.sum()))
    return scores


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _matched_frames(found: np.ndarray, true: np.ndarray, frames: np.ndarray) -> float:
    """The most frames that a matching of identities one to one has in common."""
    shape = int(found.max()) + 1, int(true.max()) + 1
    table = coo_array((frames, (found, true)), shape).tocsr()
    # Identities that share nobody are matched apart from each other: the tables stay small.
    joint = coo_array((np.ones(len(found)), (found, true + shape[0])), (sum(shape), sum(shape)))
    _, part = connected_components(joint, directed=False)
    order = np.argsort(part, kind="stable")
    total = 0.0
    for nodes in np.split(order, np.flatnonzero(np.diff(part[order])) + 1):
        rows, columns = nodes[nodes < shape[0]], nodes[nodes >= shape[0]] - shape[0]
        cells = table[rows][:, columns].toarray()
        total += float(cells[linear_sum_assignment(cells, maximize=True)].sum())
    return total


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, _ROWS):
        yield slice(start, min(start + _ROWS, count))


def _condensed(
    features: np.ndarray, forbidden: Bool[np.ndarray, "n n"], metric: str
) -> Float[np.ndarray, " p"]:
    """Distances of all pairs i < j, by (i, j), as scipy takes them."""
    count = len(features)
    found = np.empty(count * (count - 1) // 2)
    at = 0
    for rows in _blocks(count):
        tile = pairwise_distances(features[rows], features[rows.start :], metric=metric)
        for row, values in enumerate(tile):
            rest = values[row + 1 :]
            out = found[at : at + len(rest)]
            out[:] = rest
            out[forbidden[rows.start + row, rows.start + row + 1 :]] = _FORBIDDEN
            at += len(rest)
    return found


def _labels(steps: Float[np.ndarray, "s 4"], count: int) -> Int[np.ndarray, " n"]:
    """Groups after these steps of a linkage, numbered by their first member."""
    top = np.arange(count + len(steps))
    for number in range(len(steps) - 1, -1, -1):
        left, right = steps[number, :2].astype(int)
        top[left] = top[right] = top[count + number]
    _, first, labels = np.unique(top[:count], return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    return place[labels]


def _means(
    features: np.ndarray, labels: np.ndarray, forbidden: np.ndarray, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Mean distance of each tracklet to its identity's others, and the least to another one."""
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    starts = np.cumsum(sizes) - sizes
    own, others = np.full(len(labels), np.nan), np.full(len(labels), np.inf)
    for rows in _blocks(len(labels)):
        tile = pairwise_distances(features[rows], features, metric=metric).astype(np.float64)
        block = np.arange(len(tile))
        tile[block, rows.start + block] = 0
        sums = np.add.reduceat(tile[:, order], starts, axis=1)
        barred = np.logical_or.reduceat(forbidden[rows][:, order], starts, axis=1)
        mine = labels[rows]
        more = sizes[mine] > 1
        own[rows][more] = (sums[block, mine][more]) / (sizes[mine][more] - 1)
        means = sums / sizes
        means[barred] = np.inf
        means[block, mine] = np.inf
        others[rows] = means.min(axis=1)
    return own, others
