"""LS-VID: 842 training identities, 15 cameras; the reference gives no recipe for this set.

That of MARS, with the epochs that make as many steps: 2,831 training tracklets are 707 steps an
epoch where MARS has 2,074.
"""

from pathlib import Path

from ml_collections import ConfigDict

from stf_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config(Path(__file__).with_name("mars.py"))
    config.data.root = "data/ls-vid"
    config.train.epochs = 400
    config.train.evaluate_every = 20
    config.optimizer.staircase_epochs = (45, 90, 120, 150, 180, 210)
    return config
