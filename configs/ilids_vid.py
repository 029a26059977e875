"""iLIDS-VID: 300 people, two cameras, ten splits; published numbers are means over the splits.

Train on each of partitions_00.pkl ... partitions_09.pkl: set `data.partitions`. 300 training
tracklets make an epoch of 75 steps where MARS has 2,074, so the epochs are more and the staircase
is stretched; the reference gives no recipe for this set.
"""

from pathlib import Path

from stf_jax.config import Config, changed, load_config


def get_config() -> Config:
    values = {
        "data.root": "data/ilids-vid",
        "data.partitions": "partitions_00.pkl",
        "train.epochs": 400,
        "train.evaluate_every": 20,
        "optimizer.staircase_epochs": (150, 250, 300, 350),
    }
    return changed(load_config(Path(__file__).with_name("mars.py")), values)
