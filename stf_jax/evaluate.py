"""Scoring a trained run: `python -m stf_jax.main --mode evaluate --workdir DIR`."""

from pathlib import Path

import jax

from stf_jax.config import Config, check_config
from stf_jax.data.partitions import load_layout
from stf_jax.errors import UserError
from stf_jax.evaluation.scoring import extract_table, headline, rank_table
from stf_jax.models import build_model
from stf_jax.training import checkpoint
from stf_jax.training.state import init_variables


def evaluate_workdir(config: Config, workdir: Path, which: str) -> None:
    """Score checkpoint `which` (best, latest or a step) of `workdir`; write scores and plots."""
    check_config(config)
    subset = config.data.eval_subset
    layout = load_layout(config.data.root, config.data.partitions, subsets=(subset,))
    table = getattr(layout, subset)
    if table is None:
        raise UserError(f"{layout.root}: no {subset} images; expected some to rank")
    # Without a classifier: evaluation needs none, and the checkpoint's is of any size.
    model = build_model(config.model, 0)
    template = init_variables(model, 0, config.data.height, config.data.width)
    step = checkpoint.find_step(workdir / "checkpoints", which)
    variables, _ = checkpoint.restore_model(workdir / "checkpoints", template, step)
    found = extract_table(model, variables, table, config, num_devices=jax.device_count())
    rankings = rank_table(
        found.features,
        table,
        config.evaluation.protocols,
        max_rank=config.evaluation.max_rank,
        distance=config.evaluation.distance,
        reranked=config.evaluation.rerank,
    )
    for protocol, ranking in rankings.items():
        print(step, protocol, dict(headline(ranking)))
