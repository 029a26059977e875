"""The variables a run starts from: random, a weights file, or another run's checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stf_jax.config import Config
from stf_jax.models import TemporalFusionNet
from stf_jax.models.weights.pretrained import load_pretrained
from stf_jax.run import checkpoint
from stf_jax.training.state import init_variables


def starting_variables(
    model: TemporalFusionNet, config: Config, *, report: Callable[[str], None]
) -> dict[str, Any]:
    """Return the variables that training starts from, as `config.pretrained` says.

    "" is random weights; a folder is another run's workdir (its best checkpoint; a classifier of
    another number of identities is re-initialised and `report` told so); anything else a weights
    file or hf:// address for `models.weights.pretrained`. Raises UserError where it does not fit.
    """
    variables = init_variables(model, config.seed, config.data.height, config.data.width)
    source = config.pretrained
    if not source:
        return variables
    if Path(source).is_dir():
        optional = ["classifier", *(["stage_attention"] if config.pretrained_partial else [])]
        found, fresh = checkpoint.restore_model(
            Path(source) / "checkpoints", variables, "best", optional
        )
        for line in fresh:
            report(f"{source}: re-initialised, as it does not fit this run: {line}")
        report(f"starting from the best checkpoint of {source}")
        return found
    found, summary = load_pretrained(source, model, variables, partial=config.pretrained_partial)
    report(str(summary))
    return found
