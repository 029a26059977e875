"""The demo: drawn people, small images, a small backbone; the whole method switched on.

Sized for two CPU cores: `scripts/demo.sh` prepares the data, trains this and a mean-pooling model
the same way, and compares both with an untrained colour histogram.
"""

from pathlib import Path

from stf_jax.config import Config, changed, load_config


def get_config() -> Config:
    values = {
        "pretrained": "none",  # a network that drawn people alone have taught
        "data.root": "data/demo",
        "data.height": 64,
        "data.width": 32,
        "data.sampler": "identity",
        "data.tracklets": 24,
        "data.tracklets_per_identity": 4,
        "data.min_frames": 4,
        "data.max_frames": 4,
        "data.frame_buckets": 1,
        "augment.blur": 0.0,
        "model.backbone": "resnet18",
        # The recipe's 1 keeps a larger map of the last stage; in so short a run the steps that it
        # costs are worth more.
        "model.last_stride": 2,
        "model.embed_dim": 256,
        "model.stage_attention": "learned",
        "model.bounded_attention": False,
        "loss.triplet_weight": 1.0,
        # Unit vectors: the hardest triplets of long ones stall the first half of so short a run.
        "loss.triplet_distance": "cosine",
        "loss.triplet_margin": 0.3,
        "optimizer.name": "adamw",
        "optimizer.weight_decay": 5e-3,
        "optimizer.lr_backbone": 1e-3,
        "optimizer.lr_rest": 1e-3,
        "optimizer.lr_classifier": 1e-3,
        "optimizer.schedule": "cosine",
        "optimizer.warmup_epochs": 0.5,
        "optimizer.clip_norm": 5.0,
        "train.epochs": 100,
        "train.max_steps": 240,
        "train.evaluate_every": 0,
        "train.evaluate_before": True,
        "evaluation.chunk": 8,
        "evaluation.frames_per_device": 128,
    }
    return changed(load_config(Path(__file__).with_name("mars.py")), values)
