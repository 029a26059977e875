"""Which rows of a test table are queries and gallery under each named protocol, and multi-query.

A test table is what MARS's authors call it: all test tracklets, marked 0 query, 1 gallery or
2 multi-query. The same features score up to seven points apart between the protocols.
"""

from dataclasses import dataclass

import numpy as np

from stf_jax.data.layout.partitions import GALLERY, MULTI_QUERY, QUERY
from stf_jax.errors import UserError
from stf_jax.evaluation.arguments import (
    ArgumentError,
    checked_choice,
    checked_labels,
    checked_matrix,
    require_no_nan,
)
from stf_jax.evaluation.match_ranks import JUNK_ID

PROTOCOLS = {
    "mars-official": "whole test table, queries in it, junk ignored; trapezoid average precision",
    "step+queries": "test table without junk, queries in it; step average precision",
    "step": "gallery marks only; step average precision",
}
"""Name -> meaning. In each, entries of a query's identity and camera are left out of its list."""


@dataclass(frozen=True)
class ProtocolRows:
    """Rows of a test table, ascending, so that equal distances keep the table's order."""

    query: np.ndarray  # [Q] int64
    gallery: np.ndarray  # [G] int64


@dataclass(frozen=True)
class PooledQueries:
    """One feature for each (person, camera) that has queries, ordered by person, then camera."""

    features: np.ndarray  # [P, D] float, of the dtype given
    person_ids: np.ndarray  # [P] int64
    cameras: np.ndarray  # [P] int64
    counts: np.ndarray  # [P] int64, query features pooled into each


def select_rows(
    protocol: str, *, person_ids, marks, cameras=None, features=None, multi_query: bool = False
) -> ProtocolRows:
    """The query and gallery rows of a test table of N tracklets.

    Args:
        protocol: a key of `PROTOCOLS`.
        person_ids: [N] integers, -1 is junk.
        marks: [N] integers: 0 query, 1 gallery, 2 multi-query.
        cameras: [N] integers or None; only their count is looked at, because cameras kept per frame
            with identities kept per tracklet remove the wrong entries silently.
        features: [N, D] or None; a tracklet whose feature is all zero (no image of it could be
            read) is neither query nor gallery: at its distance of 1 to everything it would come
            before entries that were seen.
        multi_query: queries are rows marked 0 or 2 (to be pooled by `pool_queries`), not 0 alone.

    Raises:
        ArgumentError: naming the argument whose length, dtype or value is wrong; no query row.
        UserError: no query has an image that could be read.
    """
    checked_choice("protocol", protocol, PROTOCOLS)
    person_ids = checked_labels("person_ids", person_ids)
    marks = checked_labels("marks", marks, len(person_ids), "tracklet")
    if cameras is not None:
        checked_labels("cameras", cameras, len(person_ids), "tracklet")
    unknown = ~np.isin(marks, (QUERY, GALLERY, MULTI_QUERY))
    if unknown.any():
        row = int(np.argmax(unknown))
        raise ArgumentError(
            f"marks: {marks[row]} at row {row} ({np.count_nonzero(unknown)} such); "
            "expected 0 query, 1 gallery or 2 multi-query"
        )
    query = np.flatnonzero((marks == QUERY) | (multi_query & (marks == MULTI_QUERY)))
    if not len(query):
        raise ArgumentError(f"marks: none of {len(marks)} tracklets is a query (mark 0)")
    in_gallery = {
        "mars-official": np.ones(len(marks), bool),
        "step+queries": person_ids != JUNK_ID,
        "step": marks == GALLERY,
    }
    gallery = np.flatnonzero(in_gallery[protocol])
    if features is not None:
        seen = np.any(checked_matrix("features", features, (len(marks), None)) != 0, axis=1)
        if not seen[query].any():
            raise UserError(
                f"no image of any of the {len(query)} queries could be read; fix the data: "
                "`python -m stf_jax.prepare verify` lists what is wrong"
            )
        query, gallery = query[seen[query]], gallery[seen[gallery]]
    return ProtocolRows(query=query, gallery=gallery)


def pool_queries(features, *, person_ids, cameras, how: str = "mean") -> PooledQueries:
    """Multi-query (Zheng et al., "Scalable Person Re-identification", ICCV 2015): pool each
    (person, camera)'s query features.

    The pooled feature is not normalised again; a query's length does not change its ranked list
    under cosine, nor under Euclidean distance where gallery features are of one length.

    Args:
        features: [Q, D] float32 or float64 of the query rows.
        person_ids, cameras: [Q] integers.
        how: "mean" or "max" (element by element).

    Raises:
        ArgumentError: naming the argument whose shape, length, dtype or value is wrong.
    """
    features = checked_matrix("features", features)
    require_no_nan("features", features)
    person_ids = checked_labels("person_ids", person_ids, len(features), "feature")
    cameras = checked_labels("cameras", cameras, len(features), "feature")
    checked_choice("how", how, ("mean", "max"))
    order = np.lexsort((cameras, person_ids))
    keys = np.stack([person_ids[order], cameras[order]])
    starts = np.flatnonzero(np.any(np.diff(keys, prepend=keys[:, :1] - 1, axis=1) != 0, axis=0))
    counts = np.diff(starts, append=len(order))
    pool = np.add if how == "mean" else np.maximum
    pooled = pool.reduceat(features[order], starts) if len(starts) else features[:0]
    if how == "mean":
        pooled = pooled / counts[:, None].astype(features.dtype)
    return PooledQueries(pooled, keys[0, starts], keys[1, starts], counts)
