"""Scoring: `python -m stf_jax.main --mode evaluate`, with a run's --workdir, or with --weights."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stf_jax import hosts
from stf_jax.config import Config, check_config
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.data.source import evaluation_table, frame_source
from stf_jax.evaluation.bootstrap import bootstrap_intervals
from stf_jax.evaluation.features.feature_files import feature_set, write_features
from stf_jax.evaluation.features.origin import feature_origin
from stf_jax.evaluation.features.sources import read_rates, read_sources
from stf_jax.evaluation.features.table import extract_table, training_means
from stf_jax.evaluation.open_set import OpenSet, open_set_scores
from stf_jax.evaluation.pages.cmc_plot import plot_cmc
from stf_jax.evaluation.pages.run_report import write_run_report
from stf_jax.evaluation.scores import (
    CENTRING,
    CHOSEN,
    format_table,
    make_scores,
    training_and_test,
    write_scores,
)
from stf_jax.evaluation.scoring import check_centring, rank_table, ranking_rules
from stf_jax.run.data_facts import scored_on, trained_on
from stf_jax.run.evaluations import SCORES_FILE, evaluation_folder
from stf_jax.run.metrics_log import METRICS_FILE, read_metrics
from stf_jax.run.owner import one_owner_of_hosts
from stf_jax.run.restore import default_checkpoint, is_chosen_on, restore_run, restore_weights
from stf_jax.run.same_run import check_hosts
from stf_jax.run.tensor_checksums import digest

FEATURES_FILE = "features.npz"
CMC_FILE = "cmc.png"
REPORT_FOLDER = "report"
# Not the folder's own: a run may be scored while it trains.
_LOCK_FILE = ".evaluation.lock"


def evaluate_workdir(
    config: Config,
    workdir: Path,
    which: str | None = None,
    *,
    output: Path | None = None,
    report: bool = True,
) -> dict[str, Any]:
    """Score checkpoint `which` (best, latest or a step) of the run in `workdir`.

    By default the one that `restore.default_checkpoint` gives. Where it is the best of several by
    its scores on these very queries, each row, the table and the report say so.

    Writes features.npz (a `FeatureSet`), scores.json, cmc.png and, with `report`, report/index.html
    into `output`, by default `evaluations.evaluation_folder`; prints one table.

    Returns:
        What scores.json holds: `step`, `checkpoint` (the word or number that it was asked for by),
        `trained_on` and `scored_on` (each `data`, the layout's folder, `partitions`, `subset` and
        counts; the first None where it is not known), `data` and `subset` of the latter, and
        `rows`, protocol -> entry of `scores.make_scores`. With `config.evaluation.rerank` each
        protocol has a second row, "<protocol>, re-ranked". Of several hosts all have to call it;
        the first one writes and returns this, the others nothing ({}).
    """
    check_config(config)
    table = evaluation_table(config.data, report=print if hosts.is_first() else None)
    which = which or default_checkpoint(workdir)
    model, variables, step = restore_run(config, workdir, which)
    folder = output or hosts.from_first(lambda: str(evaluation_folder(config, workdir, step)))
    chosen = is_chosen_on(workdir, which, table)
    metrics = read_metrics(workdir / METRICS_FILE) if report else []
    about = {"step": step, "checkpoint": which, "trained_on": trained_on(workdir)}
    said = f"{workdir}, {which} checkpoint, of step {step}"
    folder = Path(folder)
    with one_owner_of_hosts(folder, _LOCK_FILE):
        return _score(config, table, model, variables, folder, about, said, report, chosen, metrics)


def evaluate_weights(
    config: Config, source: str, output: Path, *, report: bool = True
) -> dict[str, Any]:
    """Score weights that were not trained here: `source` is a file or hf:// address.

    As `evaluate_workdir`; `step` is 0 and `weights`, in place of `checkpoint`, is `source`. Raises
    UserError where the weights do not fit the config's model.
    """
    check_config(config)
    table = evaluation_table(config.data, report=print if hosts.is_first() else None)
    model, variables = restore_weights(config, source)
    about = {"step": 0, "weights": source, "trained_on": None}
    with one_owner_of_hosts(output, _LOCK_FILE):
        return _score(config, table, model, variables, output, about, source, report)


def _score(
    config: Config,
    table: TrackletTable,
    model: Any,
    variables: Any,
    folder: Path,
    about: Mapping[str, Any],
    said: str,
    report: bool,
    chosen: bool = False,
    metrics: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    evaluation, data = config.evaluation, config.data
    to_centre = (
        evaluation_table(data, subset=data.train_subset)
        if evaluation.centring == "training"
        else None
    )
    for protocol in evaluation.protocols:
        check_centring(
            *(table, protocol),
            centring=evaluation.centring,
            training=to_centre,
            multi_query=evaluation.multi_query,
        )
    check_hosts(config, (table, *([] if to_centre is None else [to_centre])), variables)
    read_frames = frame_source(config.data, config.data.eval_subset, table)
    extracted = extract_table(model, variables, table, config, read_frames=read_frames)
    means = None if to_centre is None else training_means(model, variables, to_centre, config)
    if not hosts.is_first():
        return {}
    origin = feature_origin(config, digest(variables), about["step"])
    found = feature_set(
        *(table, extracted), origin=origin, sources=read_sources(table), rates=read_rates(table)
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_features(folder / FEATURES_FILE, found)

    options: dict[str, Any] = {
        name: getattr(evaluation, name)
        for name in ("distance", "flip", "chunk", "chunk_weighting", "multi_query")
    }
    if evaluation.centring != "none":
        options[CENTRING] = evaluation.centring
    if chosen:
        options[CHOSEN] = True
    rows: dict[str, dict[str, Any]] = {}
    for reranked in (False, True) if evaluation.rerank else (False,):
        open_sets: dict[str, OpenSet] = {}

        def look(
            protocol: str,
            distances: np.ndarray,
            labels: Mapping[str, Any],
            found: dict[str, OpenSet] = open_sets,
        ) -> None:
            found[protocol] = open_set_scores(
                distances,
                **labels,
                separate_camera_set=evaluation.separate_camera_set,
                seed=config.seed,
            )

        rankings = rank_table(
            found.features,
            table,
            evaluation.protocols,
            means=means,
            reranked=reranked,
            look=look,
            **ranking_rules(config),
        )
        for protocol, ranking in rankings.items():
            label = f"{protocol}, re-ranked" if reranked else protocol
            intervals = bootstrap_intervals(ranking, seed=config.seed)
            rows[label] = make_scores(
                ranking,
                intervals,
                options={**options, "reranked": reranked},
                open_set=open_sets[protocol],
            )
    scored = scored_on(data, table)
    contents = {
        **about,
        "scored_on": scored,
        **{name: scored[name] for name in ("data", "subset")},
        "rows": rows,
    }
    write_scores(folder / SCORES_FILE, contents)
    plot_cmc({label: row["cmc"] for label, row in rows.items()}, folder / CMC_FILE)
    print(f"{said}, on {config.data.root} ({config.data.eval_subset}):")
    print(format_table(rows))
    print(training_and_test(contents["trained_on"], scored))
    names = [SCORES_FILE, FEATURES_FILE, CMC_FILE]
    if report:
        page = write_run_report(
            folder / REPORT_FOLDER,
            config,
            found,
            table,
            contents,
            list(metrics),
            read_frames,
            means,
        )
        names.append(str(page.relative_to(folder)))
    elif (folder / REPORT_FOLDER).is_dir():  # that of other scores than these
        shutil.rmtree(folder / REPORT_FOLDER)
    print(f"written to {folder}: {', '.join(names)}")
    return contents
