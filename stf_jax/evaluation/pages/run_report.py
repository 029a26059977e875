"""The report of a scored run: its features, rankings and metrics put on a page."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stf_jax.config import Config
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.evaluation.centring import CameraMeans
from stf_jax.evaluation.features.feature_files import FeatureSet
from stf_jax.evaluation.pages.report import TOP, ReportContent, Scoring, outcomes, write_report
from stf_jax.evaluation.ranked_lists import camera_pairs, distance_histogram, nearest
from stf_jax.evaluation.ranking import rank_gallery
from stf_jax.evaluation.scores import centring_note, chosen_warning, training_and_test
from stf_jax.evaluation.scoring import protocol_distances


def write_run_report(
    folder: Path,
    config: Config,
    found: FeatureSet,
    table: TrackletTable,
    contents: Mapping[str, Any],
    metrics: list[dict[str, Any]],
    read_frames: Callable[[np.ndarray], Sequence[bytes]] | None = None,
    means: CameraMeans | None = None,
) -> Path:
    """Write the report of a scored run; its ranked lists are of the config's first protocol.

    `read_frames` is `frame_source`'s: rows of the table's frames to the bytes of their images;
    `means` are those of the training set, where the config centres by them.
    """
    evaluation = config.evaluation
    protocol = evaluation.protocols[0]
    ranked = protocol_distances(
        found.features,
        table,
        protocol,
        distance=evaluation.distance,
        centring=evaluation.centring,
        means=means,
        multi_query=evaluation.multi_query,
    )
    distances, labels = ranked.distances, ranked.labels(table)
    separate = evaluation.separate_camera_set
    ranking = rank_gallery(
        distances,
        **labels,
        protocol=protocol,
        max_rank=evaluation.max_rank,
        separate_camera_set=separate,
    )
    lists = nearest(distances, TOP, **labels, separate_camera_set=separate)
    notes = ["Left out of a list: junk, and the query's own identity in its camera."]
    if evaluation.rerank:
        notes.append("The lists are by plain distances, before re-ranking.")
    weights = contents.get("weights") or f"checkpoint of step {contents['step']}"
    content = ReportContent(
        title=f"Report of {folder.resolve().parent.name}",
        notes=[
            f"{weights}, on {contents['data']} ({contents['subset']})",
            training_and_test(contents["trained_on"], contents["scored_on"]),
            *filter(None, [centring_note(contents["rows"]), chosen_warning(contents["rows"])]),
        ],
        query=found.select(ranked.query_rows),
        gallery=found.select(ranked.gallery_rows),
        lists=lists,
        scoring=Scoring(
            rows=contents["rows"],
            histogram=distance_histogram(distances, **labels),
            camera_pairs=camera_pairs(distances, **labels, protocol=protocol),
            protocol=protocol,
            outcomes=outcomes(lists, ranking, labels["query_ids"], labels["gallery_ids"]),
        ),
        metrics=metrics,
        pooled=ranked.pooled,
        list_notes=notes,
    )
    if read_frames is None:
        return write_report(folder, content)
    rows = {name: row for row, name in enumerate(table.names.tolist())}
    return write_report(
        folder,
        content,
        read_images=lambda names: read_frames(np.array([rows[name] for name in names])),
    )
