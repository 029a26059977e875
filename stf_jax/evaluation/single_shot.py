"""Single-gallery-shot ranks: galleries of one entry an identity, drawn at random, many times.

As the CMC of CUHK03 is reported (Li et al., "DeepReID", CVPR 2014).
"""

import numpy as np

from stf_jax.evaluation.match_ranks import JUNK_ID, Labels


def single_shot_ranks(
    distances: np.ndarray, labels: Labels, *, draws: int, seed: int
) -> np.ndarray:
    """Rank of the match of each query in each drawn gallery: [draws, Q] int64, 0 without a match.

    A draw is a random order of the gallery; a query meets, of every identity, the first entry that
    its list may hold. So the queries of a draw see one gallery as far as their cameras allow.
    Equal distances are ordered by gallery index. Pure in `seed`.
    """
    random = np.random.default_rng(seed)
    kept = np.flatnonzero(labels.gallery_ids != JUNK_ID)
    identities, codes = np.unique(labels.gallery_ids[kept], return_inverse=True)
    code_of = np.full(len(labels.gallery_ids), -1)
    code_of[kept] = codes
    orders = [random.permutation(kept) for _ in range(draws)]
    everyone = [_first_entries(order, code_of, len(identities)) for order in orders]
    ranks = np.zeros((draws, len(labels.query_ids)), np.int64)
    # Queries of one camera may meet the same entries; few rows at a time stay in the cache.
    for camera in np.unique(labels.query_cameras):
        other = labels.gallery_cameras != camera
        away = [_first_entries(order[other[order]], code_of, len(identities)) for order in orders]
        shown = away if labels.separate_camera_set else everyone
        of_camera = np.flatnonzero((labels.query_cameras == camera) & (labels.sizes > 0))
        for rows in np.array_split(of_camera, 1 + len(of_camera) // 64):
            own = np.searchsorted(identities, labels.query_ids[rows])
            values = distances[rows]
            for draw in range(draws):
                ranks[draw, rows] = _ranks(values, own, away[draw][own], shown[draw])
    return ranks


def _first_entries(order: np.ndarray, code_of: np.ndarray, count: int) -> np.ndarray:
    """The gallery index of each identity code that comes first in `order`, -1 where none does."""
    first = np.full(count, -1)
    backwards = order[::-1]
    first[code_of[backwards]] = backwards  # where an index is assigned repeatedly the last stays
    return first


def _ranks(values: np.ndarray, own: np.ndarray, match: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """1 + the shown entries of other identities that precede the query's match, 0 without a match.

    `values` [n, G]; `own` [n] identity codes; `match` [n] gallery indices or -1; `shown` [codes]
    gallery indices or -1.
    """
    codes = np.flatnonzero(shown >= 0)
    entries = shown[codes]
    met = np.take(values, entries, axis=1)
    at = values[np.arange(len(values)), match][:, None]
    others = codes[None, :] != own[:, None]
    precedes = (met < at) & others
    tied = (met == at) & others
    if tied.any():
        precedes |= tied & (entries[None, :] < match[:, None])
    return np.where(match >= 0, 1 + np.add.reduce(precedes, axis=1, dtype=np.int64), 0)
