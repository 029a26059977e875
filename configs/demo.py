"""The demo: drawn people, small images, a small backbone; the whole method switched on.

Sized for two CPU cores: `scripts/demo.sh` prepares the data, trains this and a mean-pooling model
alike, and compares both with an untrained colour histogram.
"""

from pathlib import Path

from ml_collections import ConfigDict

from stf_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config(Path(__file__).with_name("mars.py"))
    config.data.root = "data/demo"
    config.data.height, config.data.width = 64, 32
    config.data.sampler = "identity"
    config.data.tracklets_per_device = 24
    config.data.tracklets_per_identity = 4
    config.data.min_frames = config.data.max_frames = 4
    config.data.frame_buckets = 1
    config.augment.blur = 0.0

    config.model.backbone = "resnet18"
    # The recipe's 1 keeps a larger map of the last stage; in so short a run the steps that it costs
    # are worth more.
    config.model.last_stride = 2
    config.model.embed_dim = 256
    config.model.stage_attention = "learned"
    config.model.bounded_attention = False

    config.loss.triplet_weight = 1.0
    # Unit vectors: the hardest triplets of long ones stall the first half of so short a run.
    config.loss.triplet_distance = "cosine"
    config.loss.triplet_margin = "0.3"

    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 5e-3
    for group in ("backbone", "rest", "classifier"):
        config.optimizer[f"lr_{group}"] = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 0.5
    config.optimizer.clip_norm = 5.0

    config.train.epochs = 100
    config.train.max_steps = 240
    config.train.evaluate_every = 0
    config.train.evaluate_before = True
    config.evaluation.chunk = 8
    config.evaluation.frames_per_device = 128
    return config
