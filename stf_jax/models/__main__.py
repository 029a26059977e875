"""The backbones that there are, or every layer of a config's model.

python -m stf_jax.models                             backbones and their sizes
python -m stf_jax.models --config configs/mars.py    layers, shapes and parameters (Flax)
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from stf_jax.config import Config, changed, check_config, load_config
from stf_jax.errors import prints_user_errors
from stf_jax.models import BACKBONES, build_model


@prints_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the list or the table; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m stf_jax.models",
        description="List the backbones, or with --config every layer of that config's model.",
    )
    parser.add_argument("--config", type=Path, help="a config file, such as configs/mars.py")
    parser.add_argument("--depth", type=int, default=3, help="of the table (default %(default)s)")
    options = parser.parse_args(argv)
    if options.config is not None:
        config = load_config(options.config)
        check_config(config)
        print(summary(config, options.depth))
        return 0
    print("config.model.backbone    parameters of a model with it, without a classifier")
    for name in BACKBONES:
        config = changed(Config(), {"model.backbone": name})
        model, frames = build_model(config.model, 0), jnp.zeros((1, 1, 64, 32, 3))
        shapes = jax.eval_shape(model.init, jax.random.key(0), frames)["params"]
        print(f"{name:<24} {sum(leaf.size for leaf in jax.tree.leaves(shapes)):>10,}")
    return 0


def summary(config: Config, depth: int | None = 3) -> str:
    """Return Flax's table of the config's model, of one tracklet of two frames [1, 2, H, W, 3].

    Shapes and counts of parameters of each module down to `depth`; nothing is computed.
    """
    model = build_model(config.model, 0)
    frames = jnp.zeros((1, 2, config.data.height, config.data.width, 3))
    return model.tabulate(
        jax.random.key(0),
        frames,
        depth=depth,
        console_kwargs={"force_terminal": False, "width": 160},
    )


if __name__ == "__main__":
    sys.exit(main())
