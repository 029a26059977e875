"""Ranks of each query's matches in its list, by counting instead of sorting indices.

The place of a match is one plus the number of valid entries closer to the query, equal distances
counting where their gallery index is smaller. A match costs two comparisons with its row; a row
with many matches is cheaper sorted once (values, not indices). Positions of entries matter only
for equal distances.
"""

from dataclasses import dataclass

import numpy as np

from stf_jax.evaluation.arguments import require_no_nan

JUNK_ID = -1

_COUNTED_MATCHES = 40  # a query, on average; measured: sorting a row costs about 45 countings


@dataclass(frozen=True)
class Labels:
    """Identities and cameras of Q queries and G gallery entries, and the gallery by identity."""

    query_ids: np.ndarray  # [Q] int64
    gallery_ids: np.ndarray  # [G] int64, -1 junk
    query_cameras: np.ndarray  # [Q] int64
    gallery_cameras: np.ndarray  # [G] int64
    separate_camera_set: bool  # leave out the query's camera whole, not just its own identity
    by_identity: np.ndarray  # [G] int64: gallery indices by (identity, index)
    starts: np.ndarray  # [Q] int64: the query's identity is by_identity[start:start + size]
    sizes: np.ndarray  # [Q] int64, 0 for a junk query


def make_labels(
    query_ids: np.ndarray,
    gallery_ids: np.ndarray,
    query_cameras: np.ndarray,
    gallery_cameras: np.ndarray,
    separate_camera_set: bool,
) -> Labels:
    """The four [Q] or [G] int64 arrays with the gallery grouped by identity."""
    order = np.argsort(gallery_ids, kind="stable")
    grouped = gallery_ids[order]
    starts = np.searchsorted(grouped, query_ids, side="left")
    sizes = np.searchsorted(grouped, query_ids, side="right") - starts
    return Labels(
        query_ids=query_ids,
        gallery_ids=gallery_ids,
        query_cameras=query_cameras,
        gallery_cameras=gallery_cameras,
        separate_camera_set=separate_camera_set,
        by_identity=order,
        starts=starts,
        sizes=np.where(query_ids == JUNK_ID, 0, sizes),
    )


def match_places(
    distances: np.ndarray, labels: Labels, block: slice
) -> tuple[np.ndarray, np.ndarray]:
    """The matches of the queries in `block` (b rows of `distances` [Q, G]) and their places.

    Returns:
        rows [m] int64 in 0..b-1 and places [m] int64 from 1, ordered by (row, place).

    Raises:
        ArgumentError: a distance of these rows is NaN.
    """
    rows, columns, is_match = _same_identity(labels, block)
    values = np.array(distances[block])
    require_no_nan("distances", values, block.start)
    # NaN marks what is left out: it sorts last and is neither below nor equal to any distance.
    values[:, labels.gallery_ids == JUNK_ID] = np.nan
    values[rows[~is_match], columns[~is_match]] = np.nan
    if labels.separate_camera_set:
        cameras = labels.query_cameras[block]
        values[cameras[:, None] == labels.gallery_cameras[None, :]] = np.nan

    rows, columns = rows[is_match], columns[is_match]
    order = np.lexsort((columns, values[rows, columns], rows))
    rows, columns = rows[order], columns[order]
    at = values[rows, columns]
    find = _count_below if len(rows) <= _COUNTED_MATCHES * len(values) else _bisect_sorted
    closer, equal = find(values, rows, at)
    tied = equal > 1
    if tied.any():
        closer[tied] += _count_equal_before(values, rows[tied], columns[tied])
    return rows, closer + 1


def _same_identity(labels: Labels, block: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of query and entry of one identity: block row, column, whether the cameras differ."""
    sizes = labels.sizes[block]
    rows = np.repeat(np.arange(len(sizes)), sizes)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    columns = labels.by_identity[np.repeat(labels.starts[block], sizes) + within]
    cameras = labels.query_cameras[block]
    return rows, columns, labels.gallery_cameras[columns] != cameras[rows]


def _count_below(
    values: np.ndarray, rows: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many of values[rows[i]] are below at[i], and how many equal it; `rows` ascend.

    All rows' first matches at once, then all second ones, and so on: the rows with most come first.
    """
    counts = np.bincount(rows, minlength=len(values))
    order = np.argsort(-counts, kind="stable")
    ordered = values[order]
    starts = (np.cumsum(counts) - counts)[order]
    with_more = np.searchsorted(-counts[order], -np.arange(counts.max(initial=0)), side="left")
    below = np.empty(len(rows), np.int64)
    up_to = np.empty(len(rows), np.int64)
    held = np.empty(values.shape, bool)
    total = np.uint16 if values.shape[1] <= np.iinfo(np.uint16).max else np.int64
    for nth, some in enumerate(with_more):
        matches = starts[:some] + nth
        limit = at[matches, None]
        for compare, count in ((np.less, below), (np.less_equal, up_to)):
            compare(ordered[:some], limit, out=held[:some])
            # A narrow sum of bytes is several times quicker than np.count_nonzero along an axis.
            count[matches] = np.add.reduce(held[:some].view(np.uint8), axis=1, dtype=total)
    return below, up_to - below


def _bisect_sorted(
    values: np.ndarray, rows: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As `_count_below`, by bisecting the sorted rows for all i at once."""
    ascending = np.sort(values, axis=1)
    low = np.zeros(len(rows), np.int64)
    high = np.full(len(rows), values.shape[1] - 1)  # at[i] is in its row, so the answer is too
    for _ in range(values.shape[1].bit_length()):
        middle = (low + high) // 2
        below = ascending[rows, middle] < at
        low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
    following = np.minimum(low + 1, values.shape[1] - 1)
    tied = (ascending[rows, following] == at) & (following > low)
    return low, 1 + tied


def _count_equal_before(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """How many entries equal to values[rows[i], columns[i]] the row holds before columns[i].

    Matches come ordered by (row, value), so that each value of a row is looked for once.
    """
    at = values[rows, columns]
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:] != rows[:-1]) | (at[1:] != at[:-1])
    group = np.cumsum(new) - 1
    heads = np.flatnonzero(new)
    width = values.shape[1]
    before = np.empty(len(rows), np.int64)
    step = max(1, len(values))  # as many groups at a time as the block has rows
    for first in range(0, len(heads), step):
        some = heads[first : first + step]
        found = np.flatnonzero(values[rows[some]] == at[some, None])  # group * width + column
        members = slice(some[0], heads[first + step] if first + step < len(heads) else len(rows))
        base = (group[members] - first) * width
        before[members] = np.searchsorted(found, base + columns[members])
        before[members] -= np.searchsorted(found, base)
    return before
