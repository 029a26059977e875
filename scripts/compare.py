"""Scores of several runs and of an untrained colour histogram on one layout: a table, a CMC plot.

Usage: python scripts/compare.py --layout DIR --output DIR LABEL=WORKDIR [LABEL=WORKDIR ...]
The runs must have been evaluated (`--mode evaluate`), with a protocol in common, of which the first
is taken, and by the same rules. A run that logged its scores before training
(config.train.evaluate_before) is shown at that point, too. After the table comes how much
higher the last run's mAP is than the others'.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from colour_histogram import colour_histograms

from stf_jax.data.layout.partitions import TrackletTable, load_layout
from stf_jax.errors import UserError, prints_user_errors
from stf_jax.evaluation import (
    PROTOCOLS,
    ArgumentError,
    Ranking,
    bootstrap_intervals,
    mean_ap_difference,
)
from stf_jax.evaluation.features.feature_files import read_features
from stf_jax.evaluation.pages.cmc_plot import plot_cmc
from stf_jax.evaluation.scores import format_table, make_scores, write_scores
from stf_jax.evaluation.scoring import rank_table
from stf_jax.reading.limits import read_json
from stf_jax.run.metrics_log import read_metrics

# Options of `rank_table`; a row of scores.json lacks what is off.
RULES: dict[str, Any] = {
    "distance": "euclidean",
    "centring": "none",
    "multi_query": "",
    "separate_camera_set": False,
    "single_gallery_shot": False,
}


def scored_rows(workdir: Path) -> dict[str, Any]:
    """Return the rows of a run's scores.json."""
    path = workdir / "scores.json"
    if not path.is_file():
        raise UserError(f"{path}: not found; expected an evaluated run (--mode evaluate)")
    try:
        return dict(read_json(path)["rows"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a run's scores; evaluate it (--mode evaluate)") from error


def common_protocol(scored: dict[str, dict[str, Any]]) -> str:
    """Return the first protocol that all runs were scored under; "step" without a run."""
    found = {label: [name for name in rows if name in PROTOCOLS] for label, rows in scored.items()}
    names = next(iter(found.values()), ["step"])
    common = [name for name in names if all(name in others for others in found.values())]
    if not common:
        each = "; ".join(f"{label}: {', '.join(names)}" for label, names in found.items())
        raise UserError(
            f"scored under {each}; expected a protocol in common; evaluate the runs with one "
            "(config.evaluation.protocols)"
        )
    return common[0]


def common_rules(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return by what all runs were ranked, of `RULES`."""
    common = dict(RULES)
    for name, default in RULES.items():
        found = {label: row["options"].get(name, default) for label, row in rows.items()}
        if len(set(found.values())) > 1:
            each = ", ".join(f"{label}: {value!r}" for label, value in found.items())
            raise UserError(
                f"config.evaluation.{name} differs ({each}); expected one; evaluate again"
            )
        common[name] = next(iter(found.values()), default)
    return common


def untrained(workdir: Path, row: dict[str, Any]) -> dict[str, Any] | None:
    """Return the run's scores before its first step, in the shape of `row`, if it logged them."""
    if any(row["options"].get(name) for name in RULES if name != "distance"):
        return None  # while training the plain rules hold
    for entry in read_metrics(workdir / "metrics.jsonl"):
        scores = {k.removeprefix(f"{row['protocol']}/"): v for k, v in entry.items() if "/" in k}
        if entry["step"] == 0 and "mAP" in scores:
            return {**row, "scores": scores, "intervals": None, "cmc": [], "open_set": None}
    return None


def ranking_of(workdir: Path, row: dict[str, Any], table: TrackletTable, **rules: Any) -> Ranking:
    """Rank a run's features again, as `row` was."""
    if rules["centring"] == "training":
        raise UserError(
            f"{workdir}: scored by means of the training set, whose features are not there; "
            "expected none or gallery; evaluate again (config.evaluation.centring)"
        )
    path = workdir / "features.npz"
    found = read_features(path)
    if not np.array_equal(found.names, table.names):
        raise UserError(
            f"{path}: features of other images than {table.image_dir} has; expected the same "
            "layout; evaluate the run on it (--mode evaluate)"
        )
    (ranking,) = rank_table(
        found.features,
        table,
        (row["protocol"],),
        max_rank=len(row["cmc"]),
        seed=row["options"].get("seed", 0),
        **rules,
    ).values()
    return ranking


def gains(rankings: dict[str, Ranking]) -> list[str]:
    """Say how much higher the last one's mAP is than that of each of the others."""
    *others, last = rankings
    lines = []
    for label in others:
        try:
            gain, low, high = (
                100 * value for value in mean_ap_difference(rankings[last], rankings[label])
            )
        except ArgumentError:  # other queries: what one run could not read is left out of it
            continue
        lines.append(
            f"mAP of {last} over {label}: {gain:+.1f} ({low:+.1f} to {high:+.1f}: 95 % bootstrap "
            "interval over identities, paired)"
        )
    return lines


def compare(root: Path, output: Path, runs: dict[str, Path]) -> None:
    """Print the table and write comparison.json and comparison.png into `output`."""
    table = load_layout(root, subsets=("test",)).test
    if table is None:
        raise UserError(f"{root}: no test images; expected some to rank")
    scored = {label: scored_rows(workdir) for label, workdir in runs.items()}
    protocol = common_protocol(scored)
    rules = common_rules({label: rows[protocol] for label, rows in scored.items()})
    (histogram,) = rank_table(colour_histograms(table), table, (protocol,), **rules).values()
    rows = {"colour histogram, untrained": make_scores(histogram)}
    rankings = {"the colour histogram": histogram}
    for label, workdir in runs.items():
        row = scored[label][protocol]
        before = untrained(workdir, row)
        if before is not None:
            rows[f"{label}, before training"] = before
        rankings[label] = ranking_of(workdir, row, table, **rules)
        seed = (row["intervals"] or {}).get("seed", 0)
        intervals = bootstrap_intervals(rankings[label], seed=seed)
        again = make_scores(rankings[label], intervals, options=row["options"])
        rows[label] = {**row, **again, "open_set": row.get("open_set")}
    output.mkdir(parents=True, exist_ok=True)
    write_scores(output / "comparison.json", rows)
    curves = {label: row["cmc"] for label, row in rows.items() if row["cmc"]}
    plot_cmc(curves, output / "comparison.png", title=f"{root}, protocol {protocol}")
    print("\n".join([format_table(rows), *gains(rankings)]))
    print(f"CMC curves: {output / 'comparison.png'}; numbers: {output / 'comparison.json'}")


@prints_user_errors
def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layout", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("runs", nargs="*", metavar="LABEL=WORKDIR")
    options = parser.parse_args()
    pairs = [run.partition("=") for run in options.runs]
    if any(not workdir for _, _, workdir in pairs):
        raise UserError(f"{options.runs}: expected LABEL=WORKDIR")
    compare(options.layout, options.output, {a: Path(b) for a, _, b in pairs})
    return 0


if __name__ == "__main__":
    sys.exit(main())
