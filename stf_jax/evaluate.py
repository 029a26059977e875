"""Scoring a trained run: `python -m stf_jax.main --mode evaluate --workdir DIR`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stf_jax import hosts
from stf_jax.config import Config, check_config
from stf_jax.data.layout.partitions import TrackletTable
from stf_jax.data.source import frame_source, open_layout
from stf_jax.errors import UserError
from stf_jax.evaluation.bootstrap import bootstrap_intervals
from stf_jax.evaluation.features.feature_files import FeatureSet, feature_set, write_features
from stf_jax.evaluation.pages.cmc_plot import plot_cmc
from stf_jax.evaluation.pages.report import TOP, ReportContent, Scoring, outcomes, write_report
from stf_jax.evaluation.ranked_lists import camera_pairs, distance_histogram, nearest
from stf_jax.evaluation.ranking import rank_gallery
from stf_jax.evaluation.scores import format_table, make_scores, write_scores
from stf_jax.evaluation.scoring import extract_table, protocol_distances, rank_table
from stf_jax.models import build_model
from stf_jax.run import checkpoint
from stf_jax.run.metrics_log import METRICS_FILE, read_metrics
from stf_jax.run.same_run import check_hosts
from stf_jax.training.state import init_variables

SCORES_FILE = "scores.json"
FEATURES_FILE = "features.npz"
CMC_FILE = "cmc.png"
REPORT_FOLDER = "report"


def load_eval_table(config: Config) -> TrackletTable:
    """Return the table that the config evaluates on; raises UserError where there is none."""
    subset = config.data.eval_subset
    layout = open_layout(config.data, subsets=(subset,))
    table = getattr(layout, subset)
    if table is None:
        raise UserError(f"{layout.root}: no {subset} images; expected some to rank")
    return table


def restore_run(config: Config, workdir: Path, which: str) -> tuple[Any, Any, int]:
    """Return the model, its variables and the step of checkpoint `which` of the run in `workdir`.

    Without a classifier: neither scoring nor matching needs one, and it may be of any size.
    Raises UserError where there is no such checkpoint, or one of another model.
    """
    model = build_model(config.model, 0)
    # Shapes alone: compiling an initialisation would take longer than reading the weights.
    size = config.data.height, config.data.width
    template = jax.eval_shape(lambda: init_variables(model, 0, *size))
    step = checkpoint.find_step(workdir / "checkpoints", which)
    variables, _ = checkpoint.restore_model(
        workdir / "checkpoints", template, step, optional=("classifier",)
    )
    return model, variables, step


def write_run_report(
    folder: Path,
    config: Config,
    found: FeatureSet,
    table: TrackletTable,
    contents: Mapping[str, Any],
    metrics: list[dict[str, Any]],
    read_frames: Callable[[np.ndarray], Sequence[bytes]] | None = None,
) -> Path:
    """Write the report of a scored run; its ranked lists are of the config's first protocol.

    `read_frames` is `frame_source`'s: rows of the table's frames to the bytes of their images.
    """
    evaluation = config.evaluation
    protocol = evaluation.protocols[0]
    ranked = protocol_distances(
        found.features,
        table,
        protocol,
        distance=evaluation.distance,
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
    content = ReportContent(
        title=f"Report of {workdir_name(folder.parent)}",
        notes=[f"checkpoint of step {contents['step']}, on {contents['data']}"],
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


def workdir_name(workdir: Path) -> str:
    """The last part of a workdir's path, which is `.` for none."""
    return workdir.resolve().name


def evaluate_workdir(
    config: Config, workdir: Path, which: str = "best", *, report: bool = True
) -> dict[str, Any]:
    """Score checkpoint `which` (best, latest or a step) of the run in `workdir`.

    Writes there features.npz (`evaluation.feature_files.FeatureSet`), scores.json, cmc.png and,
    with `report`, report/index.html; prints one table.

    Returns:
        What scores.json holds: `step`, `data` (the layout's folder) and `rows`, protocol -> entry
        of `scores.make_scores`. With `config.evaluation.rerank` each protocol has a second row,
        "<protocol>, re-ranked". Of several hosts all have to call it; the first one writes and
        returns this, the others nothing ({}).
    """
    check_config(config)
    table = load_eval_table(config)
    model, variables, step = restore_run(config, workdir, which)
    check_hosts(config, (table,), variables)
    evaluation = config.evaluation
    read_frames = frame_source(config.data, config.data.eval_subset, table)
    extracted = extract_table(
        model,
        variables,
        table,
        config,
        num_devices=jax.device_count(),
        read_frames=read_frames,
    )
    if not hosts.is_first():
        return {}
    found = feature_set(table, extracted, chunk=evaluation.chunk)
    write_features(workdir / FEATURES_FILE, found)

    options: dict[str, Any] = {
        name: getattr(evaluation, name)
        for name in ("distance", "flip", "chunk", "chunk_weighting", "multi_query")
    }
    rows: dict[str, dict[str, Any]] = {}
    for reranked in (False, True) if evaluation.rerank else (False,):
        rankings = rank_table(
            found.features,
            table,
            evaluation.protocols,
            max_rank=evaluation.max_rank,
            distance=evaluation.distance,
            reranked=reranked,
            multi_query=evaluation.multi_query,
            single_gallery_shot=evaluation.single_gallery_shot,
            separate_camera_set=evaluation.separate_camera_set,
            seed=config.seed,
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
    names = [SCORES_FILE, FEATURES_FILE, CMC_FILE]
    if report:
        metrics = read_metrics(workdir / METRICS_FILE)
        page = write_run_report(
            workdir / REPORT_FOLDER, config, found, table, contents, metrics, read_frames
        )
        names.append(str(page.relative_to(workdir)))
    print(f"written to {workdir}: {', '.join(names)}")
    return contents
