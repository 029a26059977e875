"""Is that person there at all? How well a threshold on the distance tells known from unknown.

Verification: the true positive rate (TPR) of the pairs of query and entry that a list may hold, at
a false positive rate (FPR). Identification: the detection and identification rate (DIR) at rank 1
and a false alarm rate (FAR). DIR(t) is the share of the queries with a match in the gallery whose
nearest entry is a match at a distance below t; FAR(t) is the share of the impostors that have any
entry below t. An impostor is a query again, its person left out of the gallery. Grother and Ngan,
"Face Recognition Vendor Test: Performance of Face Identification Algorithms", NIST Interagency
Report 8009, 2014, call FAR the false positive identification rate, and 1 - DIR that of misses.

A false rate f is reached by the largest threshold at which no more than a share f of the n other
pairs, or of the impostors, lie below it. Of fewer than 1 / f nothing is known at that rate.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from stf_jax.evaluation.arguments import (
    ArgumentError,
    checked_labels,
    checked_matrix,
    require_no_nan,
)
from stf_jax.evaluation.bootstrap import checked_draws, identity_draws
from stf_jax.evaluation.match_ranks import JUNK_ID
from stf_jax.evaluation.ranked_lists import left_out

PAIR_RATES = (0.01, 0.001)
ALARM_RATES = (0.1, 0.01)

_BLOCK_ELEMENTS = 1 << 20  # distances handled at a time
_GRID = 400  # thresholds, at most, that curves and resamples choose from up to `_EXACT`
_BEYOND = 100  # and farther ones
_SHOWN = 50  # points of a curve, at most, evenly apart where false rates are shown as logarithms
_EXACT = 4  # other pairs are kept up to so many times the largest rate asked for


@dataclass(frozen=True)
class OpenSetPoint:
    """What one threshold gives. NaN, and no interval, where the false rate cannot be reached."""

    false_rate: float  # asked for
    needed: int  # other pairs, or impostors, that it takes to reach it
    threshold: float  # distances below it are accepted
    reached: float  # false rate there: `false_rate` or, where distances are equal, less
    true_rate: float  # TPR or DIR
    ends: tuple[float, float]  # interval of `true_rate`


@dataclass(frozen=True, eq=False)
class OpenSetCurve:
    """True over false rates of one kind, by threshold."""

    genuine: int  # matching pairs, or queries with a match
    others: int  # other pairs, or impostors
    points: tuple[OpenSetPoint, ...]
    false_rates: Float[np.ndarray, " c"]  # ascending
    true_rates: Float[np.ndarray, " c"]


@dataclass(frozen=True, eq=False)
class OpenSet:
    """Both kinds, and of what their intervals are."""

    verification: OpenSetCurve  # of pairs
    identification: OpenSetCurve  # of queries
    level: float
    resamples: int
    seed: int
    identities: int  # of queries


def open_set_scores(
    distances: Float[np.ndarray, "q g"],
    *,
    query_ids,
    gallery_ids,
    query_cameras,
    gallery_cameras,
    separate_camera_set: bool = False,
    pair_rates: Sequence[float] = PAIR_RATES,
    alarm_rates: Sequence[float] = ALARM_RATES,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> OpenSet:
    """Rates of pairs and of queries, their thresholds and intervals.

    What a list may hold is what `rank_gallery` lets it hold; queries of junk (identity -1) are left
    out, and so is an impostor without any entry. Of equal distances the lower gallery index is the
    nearer. Intervals are of resampled query identities, as `bootstrap_intervals`; each resample has
    its own threshold. Memory beyond the distances: a few per cent of them.

    Args:
        distances: [Q, G] float32 or float64, small is similar; NaN is not allowed.
        query_ids, query_cameras: [Q] integers.
        gallery_ids, gallery_cameras: [G] integers.
        separate_camera_set: leave out all entries of the query's camera, not its identity's alone.
        pair_rates: false positive rates of pairs, in (0, 1).
        alarm_rates: false alarm rates of queries, in (0, 1).
        level, resamples, seed: as of `bootstrap_intervals`.

    Raises:
        ArgumentError: (a ValueError) naming the argument whose shape, length, dtype or value is
            wrong.
    """
    distances = checked_matrix("distances", distances)
    for name, rates in (("pair_rates", pair_rates), ("alarm_rates", alarm_rates)):
        if not rates or not all(0 < rate < 1 for rate in rates):
            raise ArgumentError(f"{name}: {list(rates)}; expected shares between 0 and 1")
    resamples, seed = checked_draws(level, resamples, seed)
    lengths = distances.shape[0], distances.shape[1]
    query_ids, query_cameras = (
        checked_labels(name, value, lengths[0], "row of distances")
        for name, value in (("query_ids", query_ids), ("query_cameras", query_cameras))
    )
    gallery_ids, gallery_cameras = (
        checked_labels(name, value, lengths[1], "column of distances")
        for name, value in (("gallery_ids", gallery_ids), ("gallery_cameras", gallery_cameras))
    )
    kept = np.flatnonzero(query_ids != JUNK_ID)
    identities, person = np.unique(query_ids[kept], return_inverse=True)
    people = len(identities)

    def blocks() -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
        """Rows of `kept`, their distances, and which of them are matches and other pairs."""
        step = max(1, _BLOCK_ELEMENTS // max(1, lengths[1]))
        for start in range(0, len(kept), step):
            rows = kept[start : start + step]
            values = distances[rows]
            require_no_nan("distances", values, int(rows[0]))
            labels = query_ids[rows], query_cameras[rows], gallery_ids, gallery_cameras
            allowed = ~left_out(*labels, separate_camera_set=separate_camera_set)
            same = query_ids[rows, None] == gallery_ids[None, :]
            yield slice(start, start + len(rows)), values, allowed & same, allowed & ~same

    # First the smallest distances of others, and each query's nearest of either kind.
    most = 1 + math.ceil(min(1, _EXACT * max(pair_rates)) * len(kept) * lengths[1])
    smallest = np.empty(0, distances.dtype)
    farthest = -np.inf
    counts = np.zeros((2, people), np.int64)  # of matches, of others
    nearest = np.full((2, len(kept)), np.inf)
    first = np.zeros(len(kept), bool)  # whether the nearest entry is a match
    has = np.zeros((2, len(kept)), bool)
    for rows, values, matches, others in blocks():
        at = []
        for kind, chosen in enumerate((matches, others)):
            counts[kind] += np.bincount(person[rows], chosen.sum(axis=1), people).astype(np.int64)
            has[kind, rows] = chosen.any(axis=1)
            only = np.where(chosen, values, np.inf)
            if lengths[1]:
                at.append(only.argmin(axis=1))
                nearest[kind, rows] = only[np.arange(len(only)), at[-1]]
        if lengths[1]:
            near, far = nearest[:, rows]
            before = (near < far) | ((near == far) & (at[0] < at[1]))
            first[rows] = has[0, rows] & before
        found = values[others]
        finite = values[(matches | others) & np.isfinite(values)]
        farthest = max(farthest, float(finite.max(initial=-np.inf)))
        if len(smallest) == most:
            found = found[found < smallest.max()]
        smallest = np.concatenate([smallest, found])
        if len(smallest) > most:
            smallest = np.partition(smallest, most - 1)[:most]
    smallest.sort()
    grid = _grid(smallest, int(counts[1].sum()), farthest, pair_rates)

    # Then how many pairs lie below each threshold.
    below = np.zeros((2, people, len(grid)), np.int64)
    for rows, values, matches, others in blocks():
        for kind, chosen in enumerate((matches, others)):
            at_row, _ = np.nonzero(chosen)
            below[kind] += _below(values[chosen], person[rows][at_row], people, grid)
    draws = level, resamples, seed
    verification = _curve(below, counts, smallest, grid, pair_rates, *draws)

    impostors = np.sort(nearest[1, has[1]])
    reach = float(nearest[np.isfinite(nearest)].max(initial=-np.inf))
    grid = _grid(impostors, len(impostors), reach, alarm_rates)
    found_first = np.where(first, nearest[0], np.inf)[has[0]]
    below = np.stack(
        [
            _below(found_first, person[has[0]], people, grid),
            _below(nearest[1, has[1]], person[has[1]], people, grid),
        ]
    )
    counts = np.stack([np.bincount(person[has[kind]], minlength=people) for kind in (0, 1)])
    identification = _curve(below, counts, impostors, grid, alarm_rates, *draws)
    return OpenSet(verification, identification, level, resamples, seed, people)


def place_of(rate: float, count: int) -> int | None:
    """How many of `count` others may lie below the threshold; None where not even one may."""
    # A product such as 0.29 * 100 falls short of what it should be.
    allowed = math.floor(rate * count * (1 + 1e-12))
    return allowed if allowed >= 1 else None


def _grid(
    smallest: np.ndarray, count: int, farthest: float, rates: Sequence[float]
) -> Float[np.ndarray, " t"]:
    """Thresholds, ascending: those of `rates` exactly, others near them, and infinity.

    `smallest` are the nearest of `count` others, in order.
    """
    grid = [np.inf]
    if len(smallest):
        places = np.geomspace(1, len(smallest), _GRID).astype(np.int64) - 1
        exact = [place_of(rate, count) or 0 for rate in rates]
        grid += smallest[places].tolist() + smallest[exact].tolist()
    if farthest > -np.inf:
        low = float(smallest[-1]) if len(smallest) and np.isfinite(smallest[-1]) else farthest
        grid += np.linspace(min(low, farthest), farthest, _BEYOND).tolist()
    return np.unique(grid)


def _below(
    values: np.ndarray, person: np.ndarray, people: int, grid: Float[np.ndarray, " t"]
) -> Int[np.ndarray, "p t"]:
    """How many values of each person are below each threshold."""
    size = len(grid) + 1
    cells = person * size + np.searchsorted(grid, values, side="right")
    counts = np.bincount(cells, minlength=people * size).reshape(people, size)
    return counts[:, :-1].cumsum(axis=1)


def _curve(
    below: Int[np.ndarray, "2 p t"],
    counts: Int[np.ndarray, "2 p"],
    smallest: np.ndarray,
    grid: Float[np.ndarray, " t"],
    rates: Sequence[float],
    level: float,
    resamples: int,
    seed: int,
) -> OpenSetCurve:
    """Rates and intervals from counts of matches (0) and others (1) by person and threshold."""
    genuine, others = counts.sum(axis=1).tolist()
    total = below.sum(axis=1)
    known = genuine > 0 and others > 0
    ends = np.full((2, len(rates)), np.nan)
    if known:
        ends = _ends(below, counts, rates, level, resamples, seed)
    points = []
    for number, rate in enumerate(rates):
        needed = math.ceil(1 / rate * (1 - 1e-12))
        allowed = place_of(rate, others)
        if not known or allowed is None:
            nothing = (math.nan, math.nan)
            points.append(OpenSetPoint(rate, needed, math.nan, math.nan, math.nan, nothing))
            continue
        threshold = float(smallest[allowed])
        at = int(np.searchsorted(grid, threshold))
        low, high = ends[:, number].tolist()
        true, false = (total[:, at] / (genuine, others)).tolist()
        points.append(OpenSetPoint(rate, needed, threshold, false, true, (low, high)))
    curve = np.empty((2, 0))
    if known:
        true, false = total / [[genuine], [others]]
        shown = np.geomspace(1 / others, 1, _SHOWN)
        at = np.searchsorted(false, [0, *shown * (1 + 1e-12)], side="right") - 1
        curve = np.stack([false, true])[:, np.unique(at)]
    return OpenSetCurve(genuine, others, tuple(points), curve[0], curve[1])


def _ends(
    below: Int[np.ndarray, "2 p t"],
    counts: Int[np.ndarray, "2 p"],
    rates: Sequence[float],
    level: float,
    resamples: int,
    seed: int,
) -> Float[np.ndarray, "2 r"]:
    """Percentiles of the true rates of resampled people that leave `level` between them."""
    rows = []
    counts, below = counts.astype(np.float64), below.astype(np.float64)  # exact, and quick to sum
    for drawn in identity_draws(counts.shape[1], resamples, seed):
        times = drawn.astype(np.float64)
        genuine, others = (times @ counts[kind] for kind in (0, 1))
        true, false = (times @ below[kind] for kind in (0, 1))
        found = np.empty((len(times), len(rates)))
        for number, rate in enumerate(rates):
            allowed = rate * others * (1 + 1e-12)
            at = (false <= allowed[:, None]).sum(axis=1) - 1  # the first threshold is below all
            with np.errstate(invalid="ignore"):
                found[:, number] = true[np.arange(len(times)), at] / genuine
        rows.append(found)
    tail = (1 - level) / 2
    return np.nanquantile(np.concatenate(rows), [tail, 1 - tail], axis=0)


def open_set_entry(found: OpenSet) -> dict[str, object]:
    """Plain numbers, strings, lists and dicts for `scores.json`; None where undefined.

    `level`, `resamples`, `seed`, `identities`; of `verification` and `identification` each
    `genuine`, `others`, `points` (dicts of `OpenSetPoint`'s fields), and `curve`, a list of
    [false rate, true rate].
    """
    entry: dict[str, object] = {
        name: getattr(found, name) for name in ("level", "resamples", "seed", "identities")
    }
    for kind in ("verification", "identification"):
        curve: OpenSetCurve = getattr(found, kind)
        entry[kind] = {
            "genuine": curve.genuine,
            "others": curve.others,
            "points": [
                {
                    name: [_number(end) for end in value]
                    if isinstance(value, tuple)
                    else _number(value)
                    for name, value in vars(point).items()
                }
                for point in curve.points
            ],
            "curve": np.stack([curve.false_rates, curve.true_rates], axis=1).round(6).tolist(),
        }
    return entry


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
