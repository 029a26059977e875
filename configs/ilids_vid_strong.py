"""iLIDS-VID with the strong recipe of `mars_strong.py`, whose sources those values have.

Train on each of partitions_00.pkl ... partitions_09.pkl: set `data.partitions`. A person has two
tracklets here, one of each camera: of the four in a step each comes twice, with other frames.
"""

from pathlib import Path

from stf_jax.config import Config, changed, load_config


def get_config() -> Config:
    values = {
        "data.root": "data/ilids-vid",
        "data.partitions": "partitions_00.pkl",
        "train.epochs": 400,  # of 19 steps; a choice of this project, as in mars_strong.py
        "train.evaluate_every": 50,
    }
    return changed(load_config(Path(__file__).with_name("mars_strong.py")), values)
