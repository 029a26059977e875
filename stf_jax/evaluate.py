"""Scoring a trained run: `python -m stf_jax.main --mode evaluate --workdir DIR`."""

from pathlib import Path
from typing import Any

from stf_jax import hosts
from stf_jax.config import Config, check_config
from stf_jax.data.source import evaluation_table, frame_source
from stf_jax.evaluation.bootstrap import bootstrap_intervals
from stf_jax.evaluation.features.feature_files import feature_set, write_features
from stf_jax.evaluation.features.origin import feature_origin
from stf_jax.evaluation.features.table import extract_table
from stf_jax.evaluation.pages.cmc_plot import plot_cmc
from stf_jax.evaluation.pages.run_report import write_run_report
from stf_jax.evaluation.scores import CHOSEN, format_table, make_scores, write_scores
from stf_jax.evaluation.scoring import rank_table
from stf_jax.run.metrics_log import METRICS_FILE, read_metrics
from stf_jax.run.restore import default_checkpoint, is_chosen_on, restore_run
from stf_jax.run.same_run import check_hosts
from stf_jax.run.tensor_checksums import digest

SCORES_FILE = "scores.json"
FEATURES_FILE = "features.npz"
CMC_FILE = "cmc.png"
REPORT_FOLDER = "report"


def evaluate_workdir(
    config: Config, workdir: Path, which: str | None = None, *, report: bool = True
) -> dict[str, Any]:
    """Score checkpoint `which` (best, latest or a step) of the run in `workdir`.

    By default the one that `restore.default_checkpoint` gives. Where it is the best of several by
    its scores on these very queries, each row, the table and the report say so.

    Writes there features.npz (a `FeatureSet`), scores.json, cmc.png and, with `report`,
    report/index.html; prints one table.

    Returns:
        What scores.json holds: `step`, `checkpoint` (the word or number that it was asked for by),
        `data` (the layout's folder) and `rows`, protocol -> entry
        of `scores.make_scores`. With `config.evaluation.rerank` each protocol has a second row,
        "<protocol>, re-ranked". Of several hosts all have to call it; the first one writes and
        returns this, the others nothing ({}).
    """
    check_config(config)
    table = evaluation_table(config.data, report=print if hosts.is_first() else None)
    which = which or default_checkpoint(workdir)
    model, variables, step = restore_run(config, workdir, which)
    check_hosts(config, (table,), variables)
    evaluation = config.evaluation
    read_frames = frame_source(config.data, config.data.eval_subset, table)
    extracted = extract_table(model, variables, table, config, read_frames=read_frames)
    if not hosts.is_first():
        return {}
    found = feature_set(table, extracted, origin=feature_origin(config, digest(variables), step))
    write_features(workdir / FEATURES_FILE, found)

    options: dict[str, Any] = {
        name: getattr(evaluation, name)
        for name in ("distance", "flip", "chunk", "chunk_weighting", "multi_query")
    }
    if is_chosen_on(workdir, which, table):
        options[CHOSEN] = True
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
    contents = {"step": step, "checkpoint": which, "data": str(config.data.root), "rows": rows}
    write_scores(workdir / SCORES_FILE, contents)
    plot_cmc({label: row["cmc"] for label, row in rows.items()}, workdir / CMC_FILE)
    print(f"{workdir}, {which} checkpoint, of step {step}, on {config.data.root}:")
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
