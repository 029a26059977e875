"""Features -> scores and pages."""

from stf_jax.evaluation.arguments import ArgumentError
from stf_jax.evaluation.bootstrap import Intervals, bootstrap_intervals, mean_ap_difference
from stf_jax.evaluation.distances import pairwise_distances
from stf_jax.evaluation.open_set import OpenSet, open_set_scores
from stf_jax.evaluation.protocols import (
    PROTOCOLS,
    PooledQueries,
    ProtocolRows,
    pool_queries,
    select_rows,
)
from stf_jax.evaluation.ranking import Ranking, rank_gallery
from stf_jax.evaluation.reranking import rerank, rerank_features, rerank_memory

__all__ = [
    "PROTOCOLS",
    "ArgumentError",
    "Intervals",
    "OpenSet",
    "PooledQueries",
    "ProtocolRows",
    "Ranking",
    "bootstrap_intervals",
    "mean_ap_difference",
    "open_set_scores",
    "pairwise_distances",
    "pool_queries",
    "rank_gallery",
    "rerank",
    "rerank_features",
    "rerank_memory",
    "select_rows",
]
