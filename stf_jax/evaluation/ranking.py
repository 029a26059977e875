"""Distances -> CMC, mean average precision and mINP under a named protocol."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from stf_jax.cores import usable_cores
from stf_jax.evaluation.arguments import (
    checked_choice,
    checked_count,
    checked_labels,
    checked_matrix,
)
from stf_jax.evaluation.match_ranks import JUNK_ID, Labels, make_labels, match_places
from stf_jax.evaluation.protocols import PROTOCOLS
from stf_jax.evaluation.single_shot import single_shot_ranks

_BLOCK_ELEMENTS = 1 << 19  # distances handled at a time by a thread: 2 MB of float32


@dataclass(frozen=True)
class Ranking:
    """Scores of Q queries against G gallery entries, in [0, 1]; NaN where no query has a match.

    A query without a match has NaN in the per-query floats and 0 in the ranks, and is in no mean.
    """

    protocol: str
    num_queries: int
    valid_queries: int  # queries with at least one match
    gallery_size: int  # gallery entries that are not junk
    junk_size: int  # gallery entries of identity -1, ignored
    cmc: np.ndarray  # [max_rank] float64; cmc[k - 1] is rank-k, flat beyond the gallery's end
    mean_ap: float
    mean_inp: float
    query_ids: np.ndarray  # [Q] int64, identities
    average_precisions: np.ndarray  # [Q] float64
    inverse_penalties: np.ndarray  # [Q] float64: matches / place of the last match
    first_ranks: np.ndarray  # [Q] int64: place of the first match in the whole gallery, from 1
    match_counts: np.ndarray  # [Q] int64
    query_cmc: np.ndarray  # [Q, max_rank] float64: share of draws with a match in the first k
    separate_camera_set: bool
    single_gallery_shot: bool
    draws: int  # 1 unless single_gallery_shot
    seed: int


def rank_gallery(
    distances,
    *,
    query_ids,
    gallery_ids,
    query_cameras,
    gallery_cameras,
    protocol: str = "step",
    max_rank: int = 50,
    separate_camera_set: bool = False,
    single_gallery_shot: bool = False,
    draws: int = 100,
    seed: int = 0,
) -> Ranking:
    """Score every query's ranked list; equal distances are ordered by gallery index.

    Left out of a list: entries of the query's identity and camera, entries of identity -1 (junk).
    `protocol` says how a list is scored; which rows of a test table are queries and gallery,
    `select_rows` says. CMC counts the first match. mINP (Ye et al., "Deep Learning for Person
    Re-identification: A Survey and Outlook", TPAMI 2021) is the mean over queries of matches /
    place of the last match. A CMC longer than the gallery is flat beyond its end.

    Args:
        distances: [Q, G] float32 or float64, small is similar; infinite is allowed, NaN is not.
        query_ids: [Q] integers.
        gallery_ids: [G] integers.
        query_cameras: [Q] integers.
        gallery_cameras: [G] integers.
        protocol: "mars-official": average precision by trapezoids, as the MARS authors' evaluator
            (Zheng et al., "MARS: A Video Benchmark for Large-Scale Person Re-Identification", ECCV
            2016); "step+queries", "step": the mean over matches of the precision there.
        max_rank: length of the CMC.
        separate_camera_set: leave out all entries of the query's camera, not its identity's alone.
        single_gallery_shot: the CMC of CUHK03, a mean over random galleries of one entry an
            identity; average precision and mINP still see the whole gallery.
        draws: how many such galleries.
        seed: of those galleries, at least 0.

    Raises:
        ArgumentError: (a ValueError) naming the argument whose shape, length, dtype or value is
            wrong.
    """
    distances = checked_matrix("distances", distances)
    num_queries, num_gallery = distances.shape
    row, column = "row of distances", "column of distances"
    labels = make_labels(
        checked_labels("query_ids", query_ids, num_queries, row),
        checked_labels("gallery_ids", gallery_ids, num_gallery, column),
        checked_labels("query_cameras", query_cameras, num_queries, row),
        checked_labels("gallery_cameras", gallery_cameras, num_gallery, column),
        separate_camera_set,
    )
    checked_choice("protocol", protocol, PROTOCOLS)
    max_rank = checked_count("max_rank", max_rank)
    draws = checked_count("draws", draws) if single_gallery_shot else 1
    seed = checked_count("seed", seed, least=0)

    rows = max(1, _BLOCK_ELEMENTS // max(1, num_gallery))
    blocks = [slice(a, min(a + rows, num_queries)) for a in range(0, max(1, num_queries), rows)]
    trapezoid = protocol == "mars-official"
    with ThreadPoolExecutor(usable_cores()) as pool:
        parts = list(pool.map(lambda block: _score(distances, labels, block, trapezoid), blocks))
    precisions, penalties, first_ranks, counts = (
        np.concatenate(parts_of_one) for parts_of_one in zip(*parts, strict=True)
    )
    valid = counts > 0
    if single_gallery_shot:
        ranks = single_shot_ranks(distances, labels, draws=draws, seed=seed)
    else:
        ranks = first_ranks[None]
    query_cmc = _query_cmc(ranks, valid, max_rank)
    junk = int(np.count_nonzero(labels.gallery_ids == JUNK_ID))
    return Ranking(
        protocol=protocol,
        num_queries=num_queries,
        valid_queries=int(valid.sum()),
        gallery_size=num_gallery - junk,
        junk_size=junk,
        cmc=query_cmc[valid].mean(axis=0) if valid.any() else np.full(max_rank, np.nan),
        mean_ap=float(precisions[valid].mean()) if valid.any() else float("nan"),
        mean_inp=float(penalties[valid].mean()) if valid.any() else float("nan"),
        query_ids=labels.query_ids,
        average_precisions=precisions,
        inverse_penalties=penalties,
        first_ranks=first_ranks,
        match_counts=counts,
        query_cmc=query_cmc,
        separate_camera_set=separate_camera_set,
        single_gallery_shot=single_gallery_shot,
        draws=draws,
        seed=seed,
    )


def _score(
    distances: np.ndarray, labels: Labels, block: slice, trapezoid: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Average precision, matches / last place, first place, match count of the block's b rows."""
    rows, places = match_places(distances, labels, block)
    num_rows = block.stop - block.start
    counts = np.bincount(rows, minlength=num_rows)
    ends = np.cumsum(counts)
    nth = np.arange(1, len(rows) + 1) - np.repeat(ends - counts, counts)  # 1 for a row's first
    precision = nth / places
    if trapezoid:
        before = np.where(places > 1, (nth - 1) / np.maximum(places - 1, 1), 1.0)
        precision = (before + precision) / 2
    valid = counts > 0
    average = np.full(num_rows, np.nan)
    average[valid] = np.bincount(rows, precision, num_rows)[valid] / counts[valid]
    penalty = np.full(num_rows, np.nan)
    penalty[valid] = counts[valid] / places[ends[valid] - 1]
    first = np.zeros(num_rows, np.int64)
    first[valid] = places[(ends - counts)[valid]]
    return average, penalty, first, counts


def _query_cmc(ranks: np.ndarray, valid: np.ndarray, max_rank: int) -> np.ndarray:
    """Share of the draws in which a query's match is among the first k: [Q, max_rank]."""
    draws, num_queries = ranks.shape
    counted = (ranks > 0) & (ranks <= max_rank)
    flat = (np.arange(num_queries) * max_rank + ranks - 1)[counted]
    found = np.bincount(flat, minlength=num_queries * max_rank).reshape(num_queries, max_rank)
    shares = np.cumsum(found, axis=1) / draws
    shares[~valid] = np.nan
    return shares
