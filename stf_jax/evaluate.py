"""Scoring a trained run: `python -m stf_jax.main --mode evaluate --workdir DIR`."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stf_jax.config import Config, check_config
from stf_jax.data.partitions import TrackletTable, load_layout
from stf_jax.errors import UserError
from stf_jax.evaluation.bootstrap import bootstrap_intervals
from stf_jax.evaluation.extract import TrackletFeatures
from stf_jax.evaluation.plots import plot_cmc
from stf_jax.evaluation.scores import format_table, make_scores, write_scores
from stf_jax.evaluation.scoring import extract_table, rank_table
from stf_jax.models import build_model
from stf_jax.training import checkpoint
from stf_jax.training.state import init_variables

SCORES_FILE = "scores.json"
FEATURES_FILE = "features.npz"
CMC_FILE = "cmc.png"


def load_eval_table(config: Config) -> TrackletTable:
    """Return the table that the config evaluates on; raises UserError where there is none."""
    subset = config.data.eval_subset
    layout = load_layout(config.data.root, config.data.partitions, subsets=(subset,))
    table = getattr(layout, subset)
    if table is None:
        raise UserError(f"{layout.root}: no {subset} images; expected some to rank")
    return table


def write_features(path: Path, table: TrackletTable, found: TrackletFeatures) -> None:
    """Write what a page or another program needs, whole or not at all, as a compressed .npz.

    Per tracklet: `features` [N, D] float32 (unit length), `person_ids`, `cameras`, `tracks`,
    `marks` (0 query, 1 gallery, 2 multi-query), `num_frames` (that entered), and `offsets` [N + 1]
    into the frames. Per frame, in table order: `names` (bytes), `frame_weights`, `intra_weights`,
    `inter_weights` (each sums to 1 over a chunk, NaN where off). Read with `numpy.load`.
    """
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        np.savez_compressed(
            file,
            features=found.features,
            person_ids=table.person_ids,
            cameras=table.cameras,
            tracks=table.tracks,
            marks=table.marks,
            num_frames=found.num_frames,
            offsets=table.offsets,
            names=table.names,
            frame_weights=found.frame_weights,
            intra_weights=found.intra_weights,
            inter_weights=found.inter_weights,
        )
    os.replace(partial, path)


def evaluate_workdir(config: Config, workdir: Path, which: str) -> dict[str, Any]:
    """Score checkpoint `which` (best, latest or a step) of the run in `workdir`.

    Writes scores.json, features.npz and cmc.png there, prints one table, and returns what
    scores.json holds: `step`, and for each protocol an entry of `scores.make_scores`.
    """
    check_config(config)
    table = load_eval_table(config)
    # Without a classifier: evaluation needs none, and the checkpoint's is of any size.
    model = build_model(config.model, 0)
    template = init_variables(model, 0, config.data.height, config.data.width)
    step = checkpoint.find_step(workdir / "checkpoints", which)
    variables, _ = checkpoint.restore_model(
        workdir / "checkpoints", template, step, optional=("classifier",)
    )
    found = extract_table(model, variables, table, config, num_devices=jax.device_count())
    write_features(workdir / FEATURES_FILE, table, found)

    evaluation = config.evaluation
    options: dict[str, Any] = {"distance": evaluation.distance, "flip": evaluation.flip}
    options |= {"chunk": evaluation.chunk, "chunk_weighting": evaluation.chunk_weighting}
    rows: dict[str, dict[str, Any]] = {}
    for reranked in (False, True) if evaluation.rerank else (False,):
        rankings = rank_table(
            found.features,
            table,
            evaluation.protocols,
            max_rank=evaluation.max_rank,
            distance=evaluation.distance,
            reranked=reranked,
        )
        for protocol, ranking in rankings.items():
            label = f"{protocol}, re-ranked" if reranked else protocol
            intervals = bootstrap_intervals(ranking, seed=config.seed)
            rows[label] = make_scores(ranking, intervals, options={**options, "reranked": reranked})
    contents = {"step": step, "data": str(config.data.root), "rows": rows}
    write_scores(workdir / SCORES_FILE, contents)
    plot_cmc({label: row["cmc"] for label, row in rows.items()}, workdir / CMC_FILE)
    print(f"{workdir}, checkpoint of step {step}, on {config.data.root}:")
    print(format_table(rows))
    names = ", ".join((SCORES_FILE, FEATURES_FILE, CMC_FILE))
    print(f"written to {workdir}: {names}")
    return contents
