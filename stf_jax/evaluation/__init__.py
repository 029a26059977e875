"""Features -> scores and pages."""

from stf_jax.evaluation.arguments import ArgumentError
from stf_jax.evaluation.distances import pairwise_distances
from stf_jax.evaluation.protocols import (
    PROTOCOLS,
    PooledQueries,
    ProtocolRows,
    pool_queries,
    select_rows,
)
from stf_jax.evaluation.ranking import Ranking, rank_gallery

__all__ = [
    "PROTOCOLS",
    "ArgumentError",
    "PooledQueries",
    "ProtocolRows",
    "Ranking",
    "pairwise_distances",
    "pool_queries",
    "rank_gallery",
    "select_rows",
]
