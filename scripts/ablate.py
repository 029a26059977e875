"""Every variant of configs/ablation.py over seeds: one table. See scripts/ablate.sh."""

import argparse
import runpy
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from compare import common_rules, ranking_of
from paired_gain import gain
from train_and_score import train_and_score

from stf_jax.config import changed, check_config
from stf_jax.data.source import evaluation_table
from stf_jax.devices import set_up_process
from stf_jax.errors import UserError, prints_user_errors
from stf_jax.evaluation import Ranking
from stf_jax.evaluation.scores import across_splits, write_scores
from stf_jax.main import parse, read_config
from stf_jax.training.stop_request import RunStoppedError

ABLATION = Path(__file__).parents[1] / "configs" / "ablation.py"
SHOWN = ("mAP", "rank-1", "rank-5", "mINP")


def ablation() -> dict[str, Any]:
    """Return what configs/ablation.py defines: VARIANTS, CLAIMS."""
    return runpy.run_path(str(ABLATION))


def format_rows(rows: dict[str, list[dict[str, Any]]], finished: bool) -> str:
    """Return the table: a line a variant, mean and deviation over seeds in percent."""
    lines = [f"{'variant':24}{'seeds':>6}  " + "".join(f"{name:>14}" for name in SHOWN)]
    for variant, entries in rows.items():
        scores = across_splits(entries)
        cells = []
        for name in SHOWN:
            mean, deviation = scores[name]["mean"] or 0.0, scores[name]["deviation"]
            spread = "" if deviation is None else f" +- {100 * deviation:.1f}"
            cells.append(f"{100 * mean:.1f}{spread}".rjust(14))
        lines.append(f"{variant:24}{len(entries):>6}  {''.join(cells)}")
    if not finished:
        lines.append("(not finished: the same command resumes)")
    return "\n".join(lines)


def run(seeds: list[int], only: list[str], argv: list[str]) -> None:
    """Train and score what is missing, seed by seed; print the table after each seed.

    `only`: names of variants; empty for all.
    """
    if "--config" not in argv:
        argv = ["--config", str(ABLATION), *argv]
    options, overrides = parse(argv)
    rows: dict[str, list[dict[str, Any]]] = {}
    rankings: dict[str, list[Ranking]] = defaultdict(list)
    defined = ablation()
    wanted, claimed = defined["VARIANTS"], defined["CLAIMS"]
    unknown = [name for name in only if name not in wanted]
    if unknown:
        raise UserError(f"--only {unknown[0]!r}: expected one of {', '.join(map(repr, wanted))}")
    for seed in seeds:
        for variant, (stages, frame_attention, stage_attention) in wanted.items():
            if only and variant not in only:
                continue
            values = {
                "seed": seed,
                "model.stages": stages,
                "model.frame_attention": frame_attention,
                "model.stage_attention": stage_attention,
            }
            config = changed(read_config(options, overrides), values)
            check_config(config)
            set_up_process(config.compilation_cache)
            name = variant.replace(", ", "-").replace("+", "")
            workdir = options.workdir / f"{name}-seed{seed}"
            print(f"{variant}, seed {seed}", file=sys.stderr)
            entries = train_and_score(config, workdir)
            row = next(iter(entries.values()))
            rows.setdefault(variant, []).append(row)
            if any(variant in pair for pair in claimed):
                table, rules = evaluation_table(config.data), common_rules({variant: row})
                rankings[variant].append(ranking_of(workdir, row, table, **rules))
        gains = [
            gain(*pair, *(rankings[name] for name in pair))
            for pair in claimed
            if all(name in rankings for name in pair)
        ]
        print("\n".join([format_rows(rows, finished=seed == seeds[-1]), *gains]))
    summary = {variant: across_splits(entries) for variant, entries in rows.items()}
    write_scores(options.workdir / "ablation.json", summary)


@prints_user_errors
def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", action="append", default=[], metavar="VARIANT")
    options, argv = parser.parse_known_args()
    try:
        seeds = [int(seed) for seed in options.seeds.split(",")]
    except ValueError:
        raise UserError(f"--seeds {options.seeds}: expected numbers, such as 0,1,2") from None
    try:
        run(seeds, options.only, argv)
    except RunStoppedError as stopped:
        return stopped.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
