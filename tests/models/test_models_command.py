"""The command that lists backbones and shows a model."""

from pathlib import Path

import jax
import jax.numpy as jnp

from stf_jax.config import load_config
from stf_jax.models import BACKBONES, build_model
from stf_jax.models.__main__ import main

CONFIG = Path(__file__).parents[2] / "configs" / "demo.py"


def test_backbones_and_their_sizes(capsys) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(BACKBONES)
    sizes = [int(line.split()[1].replace(",", "")) for line in lines]
    assert sizes == sorted(sizes)
    assert sizes[3] == 39_190_084  # ResNet-50's 23,508,032, two embeddings, the attentions


def test_a_table_of_a_configs_model(capsys) -> None:
    assert main(["--config", str(CONFIG), "--depth", "1"]) == 0
    said = capsys.readouterr().out
    config = load_config(CONFIG)
    model = build_model(config.model, 0)
    size = config.data.height, config.data.width
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, *size, 3)))["params"]
    for name, part in shapes.items():
        count = sum(leaf.size for leaf in jax.tree.leaves(part))
        assert f"{count:,} (" in next(line for line in said.splitlines() if f" {name} " in line)
    assert main(["--config", "none.py"]) == 2
