"""Runs that were never trained: random weights in a small model, with the files of a run."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from stf_jax.config import Config, changed, load_config, to_json
from stf_jax.models import TemporalFusionNet, build_model
from stf_jax.models.variables import init_variables
from stf_jax.run import checkpoint
from stf_jax.run.run_files import write_run_files
from stf_jax.training.optim import make_optimizer
from stf_jax.training.state import init_state

CONFIG = Path(__file__).parents[2] / "configs" / "mars.py"
TINY: dict[str, Any] = {
    "data.height": 32,
    "data.width": 16,
    "model.backbone": "resnet18",
    "model.embed_dim": 8,
    "model.stages": (4,),
    "evaluation.chunk": 4,
    "evaluation.frames_per_device": 16,
}


def tiny_config(**values: Any) -> Config:
    """The config of a small model; `values` by key, such as {"data.root": ...}."""
    return changed(load_config(CONFIG), TINY | values)


def draw_variables(model: TemporalFusionNet, *, scales: bool = False) -> dict[str, Any]:
    """Random weights, without compiling the model's own initialisation.

    BatchNorms are neutral, or with `scales` drawn, too.
    """
    rng = np.random.default_rng(0)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key in ("scale", "var"):
            drawn = rng.uniform(0.5, 1.5, leaf.shape) if scales else np.ones(leaf.shape)
            return drawn.astype(np.float32)
        fan_in = max(1, np.prod(leaf.shape[:-1]))
        return (rng.normal(size=leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    shapes = jax.eval_shape(lambda: init_variables(model, 0, 32, 16))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def write_run(workdir: Path, config: Config, variables: dict[str, Any], people: int = 3) -> None:
    """Write the run's files and one checkpoint, of step 1."""
    write_run_files(workdir, to_json(config), {label: label for label in range(people)})
    optimizer, _ = make_optimizer(config.optimizer, 10, 10, variables["params"])
    state = init_state(variables, optimizer)
    with checkpoint.open_manager(workdir / "checkpoints") as manager:
        checkpoint.save(manager, state, checkpoint.Position(1, 0, 0), {"mAP": 0.5})
        manager.wait_until_finished()


def make_run(workdir: Path, **values: Any) -> Config:
    """A run of a small model, drawn; `values` of its config by key. Returns the config."""
    config = tiny_config(**values)
    write_run(workdir, config, draw_variables(build_model(config.model, 3), scales=True))
    return config
