"""A table of test tracklets and their features -> distances, rankings and scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stf_jax.config import Config
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.evaluation.centring import CameraMeans, camera_means, centre_pair, centring_means
from stf_jax.evaluation.distances import pairwise_distances
from stf_jax.evaluation.protocols import pool_queries, select_rows
from stf_jax.evaluation.ranking import Ranking, rank_gallery
from stf_jax.evaluation.reranking import rerank_features
from stf_jax.evaluation.scores import RANKS


@dataclass(frozen=True, eq=False)
class ProtocolDistances:
    """Distances of the Q queries and G gallery entries that a protocol takes from a test table."""

    distances: np.ndarray  # [Q, G] float32
    query_rows: np.ndarray  # [Q] int64, rows of the table; of pooled queries the first
    pooled: np.ndarray  # [Q] int64, tracklets pooled into each query; 1 without multi-query
    gallery_rows: np.ndarray  # [G] int64

    def labels(self, table: TrackletTable) -> dict[str, Any]:
        """Identities and cameras, by the names that `rank_gallery` has for them."""
        return {
            "query_ids": table.person_ids[self.query_rows],
            "gallery_ids": table.person_ids[self.gallery_rows],
            "query_cameras": table.cameras[self.query_rows],
            "gallery_cameras": table.cameras[self.gallery_rows],
        }


def protocol_distances(
    features: np.ndarray,
    table: TrackletTable,
    protocol: str,
    *,
    distance: str = "euclidean",
    centring: str = "none",
    means: CameraMeans | None = None,
    reranked: bool = False,
    multi_query: str = "",
) -> ProtocolDistances:
    """Return the distances that `protocol` ranks by, of `features` [N, D].

    Tracklets of which no image could be read are left out. `centring` comes before all else, by
    `centre_pair`: "gallery" by the protocol's own gallery, "training" by `means`. `multi_query` is
    "", or "mean" or "max" of each (person, camera)'s query features (`pool_queries`), tracklets
    marked multi-query among them.
    """
    rows = select_rows(
        protocol,
        person_ids=table.person_ids,
        marks=table.marks,
        cameras=table.cameras,
        features=features,
        multi_query=bool(multi_query),
    )
    query, gallery = features[rows.query], features[rows.gallery]
    if centring != "none":
        if (means is None) == (centring == "training"):
            raise ValueError(f"centring={centring!r}: expected means with 'training' alone")
        query, gallery = centre_pair(
            *(query, table.cameras[rows.query], gallery, table.cameras[rows.gallery]), means
        )
    query_rows, pooled = rows.query, np.ones(len(rows.query), np.int64)
    if multi_query:
        ids, cameras = table.person_ids[rows.query], table.cameras[rows.query]
        pools = pool_queries(query, person_ids=ids, cameras=cameras, how=multi_query)
        query, pooled = pools.features, pools.counts
        order = np.lexsort((rows.query, cameras, ids))
        query_rows = rows.query[order[np.cumsum(pooled) - pooled]]
    distances = (
        rerank_features(query, gallery)
        if reranked
        else pairwise_distances(query, gallery, metric=distance)
    )
    return ProtocolDistances(distances, query_rows, pooled, rows.gallery)


def check_centring(
    table: TrackletTable,
    protocol: str,
    *,
    centring: str,
    training: TrackletTable | None,
    multi_query: str = "",
) -> None:
    """Raise UserError where a camera of `table` has no mean feature to be centred with.

    Needs no features: so that it is found out before training, and before all are extracted.
    `training` is needed where they are to centre.
    """
    if centring == "none":
        return
    means = None
    if centring == "training":
        assert training is not None
        of_training = np.ones((training.num_tracklets, 1), np.float32)
        means = camera_means(of_training, training.cameras)
    ones = np.ones((table.num_tracklets, 1), np.float32)
    rows = select_rows(
        protocol, person_ids=table.person_ids, marks=table.marks, multi_query=bool(multi_query)
    )
    query, gallery = rows.query, rows.gallery
    centring_means(ones[query], table.cameras[query], ones[gallery], table.cameras[gallery], means)


def rank_table(
    features: np.ndarray,
    table: TrackletTable,
    protocols: Sequence[str],
    *,
    max_rank: int = 50,
    distance: str = "euclidean",
    centring: str = "none",
    means: CameraMeans | None = None,
    reranked: bool = False,
    multi_query: str = "",
    single_gallery_shot: bool = False,
    separate_camera_set: bool = False,
    seed: int = 0,
    look: Callable[[str, np.ndarray, Mapping[str, Any]], None] | None = None,
) -> dict[str, Ranking]:
    """Return the ranking of `features` [N, D] under each of `protocols`, by name.

    The options are those of `protocol_distances` and `rank_gallery`. `look` is called with each
    protocol's name, distances [Q, G] and labels; the distances are gone afterwards.
    """
    rankings = {}
    for protocol in protocols:
        found = protocol_distances(
            features,
            table,
            protocol,
            distance=distance,
            centring=centring,
            means=means,
            reranked=reranked,
            multi_query=multi_query,
        )
        labels = found.labels(table)
        if look is not None:
            look(protocol, found.distances, labels)
        rankings[protocol] = rank_gallery(
            found.distances,
            **labels,
            protocol=protocol,
            max_rank=max_rank,
            single_gallery_shot=single_gallery_shot,
            separate_camera_set=separate_camera_set,
            seed=seed,
        )
    return rankings


def ranking_rules(config: Config) -> dict[str, Any]:
    """The options of `rank_table` that the config says, but for re-ranking."""
    names = "max_rank distance centring multi_query single_gallery_shot separate_camera_set"
    rules = {name: getattr(config.evaluation, name) for name in names.split()}
    return {**rules, "seed": config.seed}


def headline(ranking: Ranking) -> Mapping[str, float]:
    """Return mAP, mINP and rank-1/5/10/20 of a ranking, in [0, 1]."""
    ranks = {f"rank-{k}": float(ranking.cmc[k - 1]) for k in RANKS if k <= len(ranking.cmc)}
    return {"mAP": ranking.mean_ap, "mINP": ranking.mean_inp, **ranks}
