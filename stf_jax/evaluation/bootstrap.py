"""How far a score could be off by the luck of the queries: percentile bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from stf_jax.evaluation.arguments import ArgumentError, checked_count
from stf_jax.evaluation.ranking import Ranking

_DRAWN = 1 << 22  # query indices at a time


@dataclass(frozen=True)
class Intervals:
    """Lower and upper ends by score name ("mAP", "mINP", "rank-1" ...), each in [0, 1] or NaN."""

    level: float
    resamples: int
    seed: int
    ends: dict[str, tuple[float, float]]


def bootstrap_intervals(
    ranking: Ranking,
    *,
    ranks: Sequence[int] = (1, 5, 10, 20),
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Intervals:
    """Intervals of mAP, mINP and rank-k over resampled valid queries.

    Each resample draws as many queries as are valid, with replacement, and takes all scores from
    the same draw; the ends are percentiles (Efron and Tibshirani, "An Introduction to the
    Bootstrap", 1993, section 13.3). They tell of the choice of queries only, not of training seeds
    or splits. NaN where no query is valid.

    Args:
        ranking: scores under one protocol.
        ranks: the k of rank-k; those beyond the ranking's CMC are left out.
        level: share of resamples between the ends, in (0, 1).
        resamples: number of draws.
        seed: at least 0; the same seed gives the same ends.

    Raises:
        ArgumentError: (a ValueError) naming the argument out of its range.
    """
    resamples, seed = _checked(level, resamples, seed)
    valid = ranking.match_counts > 0
    scores = {
        "mAP": ranking.average_precisions[valid],
        "mINP": ranking.inverse_penalties[valid],
    }
    for k in ranks:
        if checked_count("ranks", k) <= ranking.query_cmc.shape[1]:
            scores[f"rank-{k}"] = ranking.query_cmc[valid, k - 1]
    if not valid.any():
        return Intervals(level, resamples, seed, dict.fromkeys(scores, (np.nan, np.nan)))
    low, high = _ends(np.stack(list(scores.values()), axis=1), level, resamples, seed)
    ends = {name: (float(a), float(b)) for name, a, b in zip(scores, low, high, strict=True)}
    return Intervals(level, resamples, seed, ends)


def mean_ap_difference(
    one: Ranking,
    other: Ranking,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """How much higher `one`'s mAP is than `other`'s for the same queries, and its interval's ends.

    Paired: a resample takes the same queries of both, so that what makes a query hard for both
    cancels out. Arguments as in `bootstrap_intervals`; NaN where no query is valid.

    Raises:
        ArgumentError: (a ValueError) the rankings are not of the same queries, or an argument out
            of its range.
    """
    resamples, seed = _checked(level, resamples, seed)
    valid = one.match_counts > 0
    if not np.array_equal(valid, other.match_counts > 0):
        raise ArgumentError("other: expected a ranking of the same queries")
    if not valid.any():
        return (np.nan, np.nan, np.nan)
    gains = (one.average_precisions - other.average_precisions)[valid]
    (low,), (high,) = _ends(gains[:, None], level, resamples, seed)
    return float(gains.mean()), float(low), float(high)


def _checked(level: float, resamples: int, seed: int) -> tuple[int, int]:
    if not 0 < level < 1:
        raise ArgumentError(f"level: {level!r}; expected a number between 0 and 1")
    return checked_count("resamples", resamples), checked_count("seed", seed, least=0)


def _ends(
    values: Float[np.ndarray, "n s"], level: float, resamples: int, seed: int
) -> Float[np.ndarray, "2 s"]:
    """Percentiles of the resampled means that leave `level` between them."""
    tail = (1 - level) / 2
    return np.quantile(_resampled_means(values, resamples, seed), [tail, 1 - tail], axis=0)


def _resampled_means(
    values: Float[np.ndarray, "n s"], resamples: int, seed: int
) -> Float[np.ndarray, "r s"]:
    """Means of n rows drawn with replacement, by how often each row was drawn."""
    random = np.random.default_rng(seed)
    count = len(values)
    means = np.empty((resamples, values.shape[1]))
    step = max(1, _DRAWN // count)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = random.integers(count, size=(size, count))
        drawn += count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        means[start : start + size] = times @ values / count
    return means
