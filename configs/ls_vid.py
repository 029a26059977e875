"""LS-VID: 842 training identities, 15 cameras; the reference gives no recipe for this set.

That of MARS, with the epochs that make as many steps: 2,831 training tracklets are 707 steps an
epoch where MARS has 2,074.
"""

from pathlib import Path

from stf_jax.config import Config, changed, load_config


def get_config() -> Config:
    values = {
        "data.root": "data/ls-vid",
        "train.epochs": 400,
        "train.evaluate_every": 20,
        "optimizer.staircase_epochs": (45, 90, 120, 150, 180, 210),
    }
    return changed(load_config(Path(__file__).with_name("mars.py")), values)
