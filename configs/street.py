"""Fine-tuning the demo's model on the five training people of the street clip.

Far too few to train a network from scratch: it starts from `scripts/demo.sh`'s weights, learns a
little, and the layers that see the pixels learn least.
"""

from pathlib import Path

from stf_jax.config import Config, changed, load_config


def get_config() -> Config:
    values = {
        "data.root": "data/street",
        # Real people have finer marks than drawn ones; the demo's filters serve at other sizes.
        "data.height": 96,
        "data.width": 48,
        "data.tracklets": 16,  # four of the five people
        "pretrained": "runs/demo-0/fusion",
        "augment.hsv": 0.5,
        "optimizer.lr_backbone": 1e-4,
        "optimizer.lr_rest": 3e-4,
        "optimizer.lr_classifier": 3e-4,
        "train.max_steps": 60,
    }
    return changed(load_config(Path(__file__).with_name("demo.py")), values)
