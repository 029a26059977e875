"""Evaluation of the state that training has reached, under the config's first protocol."""

from typing import Any

import jax

from stf_jax import hosts
from stf_jax.config import Config
from stf_jax.data.layout.partitions import TrackletTable
from stf_jax.data.source import frame_source
from stf_jax.evaluation.scoring import extract_table, headline, rank_table
from stf_jax.models import TemporalFusionNet


def validate(
    model: TemporalFusionNet, variables: Any, table: TrackletTable, config: Config
) -> tuple[str, dict[str, float], str]:
    """Return the protocol, its scores (mAP, rank-1 ... in [0, 1]) and the sizes it ranked, as text.

    All hosts have to call it. Each extracts its share of `table`; the first one ranks, so that the
    scores, by which the best checkpoint is chosen, are the same everywhere.
    """
    found = extract_table(
        model,
        variables,
        table,
        config,
        num_devices=jax.device_count(),
        read_frames=frame_source(config.data, config.data.eval_subset, table),
        label="evaluating",
    )

    def rank() -> tuple[str, dict[str, float], str]:
        rankings = rank_table(
            found.features,
            table,
            config.evaluation.protocols[:1],
            max_rank=config.evaluation.max_rank,
            distance=config.evaluation.distance,
        )
        ((protocol, ranking),) = rankings.items()
        sizes = f"{ranking.valid_queries} queries, {ranking.gallery_size} gallery"
        return protocol, dict(headline(ranking)), sizes

    protocol, scores, sizes = hosts.from_first(rank)
    return protocol, scores, sizes
