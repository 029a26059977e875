"""PRID2011: 178 people seen by both cameras, ten splits of 89/89; means over the splits.

Train on each of partitions_00.pkl ... partitions_09.pkl: set `data.partitions`. The schedule is
stretched as in `ilids_vid.py`, for the same reason.
"""

from pathlib import Path

from stf_jax.config import Config, changed, load_config


def get_config() -> Config:
    return changed(
        load_config(Path(__file__).with_name("ilids_vid.py")), {"data.root": "data/prid2011"}
    )
