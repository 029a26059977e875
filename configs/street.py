"""Fine-tuning the demo's model on the five training people of the street clip.

Far too few to train a network from scratch: it starts from `scripts/demo.sh`'s weights, learns a
little, and the layers that see the pixels learn least.
"""

from pathlib import Path

from ml_collections import ConfigDict

from stf_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config(Path(__file__).with_name("demo.py"))
    config.data.root = "data/street"
    # Real people have finer marks than drawn ones; the demo's filters serve at other sizes, too.
    config.data.height, config.data.width = 96, 48
    config.data.tracklets_per_device = 16  # four of the five people
    config.pretrained = "runs/demo-0/fusion"
    config.augment.hsv = 0.5
    config.optimizer.lr_backbone = 1e-4
    config.optimizer.lr_rest = config.optimizer.lr_classifier = 3e-4
    config.train.max_steps = 60
    return config
