"""iLIDS-VID: 300 people, two cameras, ten splits; published numbers are means over the splits.

Train on each of partitions_00.pkl ... partitions_09.pkl: set `data.partitions`. 300 training
tracklets make an epoch of 75 steps where MARS has 2,074, so the epochs are more and the staircase
is stretched; the reference gives no recipe for this set.
"""

from pathlib import Path

from ml_collections import ConfigDict

from stf_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config(Path(__file__).with_name("mars.py"))
    config.data.root = "data/ilids-vid"
    config.data.partitions = "partitions_00.pkl"
    config.train.epochs = 400
    config.train.evaluate_every = 20
    config.optimizer.staircase_epochs = (150, 250, 300, 350)
    return config
