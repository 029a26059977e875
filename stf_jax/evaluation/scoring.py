"""A model and a table of test tracklets -> features and scores."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from stf_jax import hosts
from stf_jax.config import Config
from stf_jax.data.layout.partitions import TrackletTable
from stf_jax.data.pipeline import batches
from stf_jax.data.sampling import Plan, evaluation_plan, frame_buckets, frame_counts
from stf_jax.devices import replicate
from stf_jax.evaluation.distances import pairwise_distances
from stf_jax.evaluation.features.extract import (
    TrackletFeatures,
    extract_features,
    parallel_extract_step,
)
from stf_jax.evaluation.protocols import pool_queries, select_rows
from stf_jax.evaluation.ranking import Ranking, rank_gallery
from stf_jax.evaluation.reranking import rerank_features
from stf_jax.models import TemporalFusionNet

# Batches from which on another compiled size is worth its compilation.
MANY_BATCHES = 200

_LOG = logging.getLogger(__name__)


def extract_table(
    model: TemporalFusionNet,
    variables: Any,
    table: TrackletTable,
    config: Config,
    *,
    num_devices: int,
    read_frames: Callable[[np.ndarray], Sequence[bytes]] | None = None,
    label: str = "features",
) -> TrackletFeatures:
    """Return a feature for every tracklet of `table`, as the config's `evaluation` section says.

    All hosts have to call it: each extracts its share, and all get the same features.
    Raises UserError for an unreadable image (unless `config.data.on_corrupt` is "skip") and
    RuntimeError should a frame be missed.
    """
    data, evaluation = config.data, config.evaluation
    plan = evaluation_plan(
        table,
        num_devices=num_devices,
        chunk=evaluation.chunk,
        frames_per_device=evaluation.frames_per_device,
    )
    # The packed batches are nearly full; a second size pays where there are many.
    counts = frame_counts(plan).max(1)
    buckets = frame_buckets(counts, 2 if len(counts) > MANY_BATCHES else 1)
    own = hosts.share(num_devices)
    share = Plan(plan.tracklets[:, own], plan.frames[:, own])
    variables = replicate(variables)
    step = parallel_extract_step(model, num_slots=evaluation.chunk, flip=evaluation.flip)
    stream = batches(
        table,
        plan,
        height=data.height,
        width=data.width,
        buckets=buckets,
        on_corrupt=data.on_corrupt,
        threads=data.threads or None,
        # Images are padded in evaluation as in training; nothing random is done to them.
        host_augment=replace(config.augment, horizontal_crop=0.0),
        devices=own,
        read_frames=read_frames,
    )
    frames = int(frame_counts(share).sum())
    hidden = None if hosts.is_first() else True  # None: where there is no terminal
    with tqdm(total=frames, desc=label, unit="frame", disable=hidden, leave=False) as bar:
        found = extract_features(
            step,
            variables,
            stream,
            share,
            table.num_tracklets,
            table.num_frames,
            weighting=evaluation.chunk_weighting,
            progress=bar.update,
        )
    unread = np.flatnonzero(found.num_frames == 0)
    if len(unread):
        _LOG.warning(
            "%s: of %d of %d tracklets no image could be read (e.g. that of %s); they are left "
            "out of queries and gallery",
            table.image_dir,
            len(unread),
            table.num_tracklets,
            table.names.tolist()[table.offsets[unread[0]]].decode("utf-8", "backslashreplace"),
        )
    missed = int(table.num_frames - found.num_frames.sum())
    if missed and data.on_corrupt == "error":
        raise RuntimeError(f"{missed} of {table.num_frames} frames entered no feature")
    return found


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
    reranked: bool = False,
    multi_query: str = "",
) -> ProtocolDistances:
    """Return the distances that `protocol` ranks by, of `features` [N, D].

    Tracklets of which no image could be read are left out. `multi_query` is "", or "mean" or "max"
    of each (person, camera)'s query features (`pool_queries`), tracklets marked multi-query among
    them.
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


def rank_table(
    features: np.ndarray,
    table: TrackletTable,
    protocols: Sequence[str],
    *,
    max_rank: int = 50,
    distance: str = "euclidean",
    reranked: bool = False,
    multi_query: str = "",
    single_gallery_shot: bool = False,
    separate_camera_set: bool = False,
    seed: int = 0,
) -> dict[str, Ranking]:
    """Return the ranking of `features` [N, D] under each of `protocols`, by name.

    The options are those of `protocol_distances` and `rank_gallery`.
    """
    rankings = {}
    for protocol in protocols:
        found = protocol_distances(
            features,
            table,
            protocol,
            distance=distance,
            reranked=reranked,
            multi_query=multi_query,
        )
        rankings[protocol] = rank_gallery(
            found.distances,
            **found.labels(table),
            protocol=protocol,
            max_rank=max_rank,
            single_gallery_shot=single_gallery_shot,
            separate_camera_set=separate_camera_set,
            seed=seed,
        )
    return rankings


def headline(ranking: Ranking) -> Mapping[str, float]:
    """Return mAP, mINP and rank-1/5/10/20 of a ranking, in [0, 1]."""
    ranks = {
        f"rank-{k}": float(ranking.cmc[k - 1]) for k in (1, 5, 10, 20) if k <= len(ranking.cmc)
    }
    return {"mAP": ranking.mean_ap, "mINP": ranking.mean_inp, **ranks}
