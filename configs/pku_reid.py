"""PKU-Reid: a MobileNetV2 from ImageNet, fine-tuned on half of the people, ten splits.

Sized for two CPU cores: `scripts/real_people.sh` trains this and its mean pooling on every split.
Train on each of partitions_00.pkl ... partitions_09.pkl: set `data.partitions`.
"""

from pathlib import Path

from stf_jax.config import Config, changed, load_config


def get_config() -> Config:
    values = {
        "data.root": "data/pku-reid",
        "pretrained": "data/mobilenet_v2.safetensors",  # scripts/mobilenet_weights.sh
        "data.height": 96,  # the pictures are 128x48
        "data.width": 48,
        "data.tracklets": 16,  # 8 people x
        "data.tracklets_per_identity": 2,  # both cameras
        "data.min_frames": 4,
        "data.max_frames": 4,
        # The cameras differ in colour: what is learnt must not hang on it.
        "augment.hsv": 1.0,
        "augment.hsv_hue": 20,
        "augment.hsv_saturation": 60,
        "augment.hsv_value": 40,
        "augment.erase": 0.3,
        "augment.crop": 0.5,
        "model.backbone": "mobilenet_v2",
        "model.last_stride": 1,
        "model.embed_dim": 512,
        "model.stage_attention": "gated",  # an early stage costs at first: it has to earn its share
        "optimizer.lr_backbone": 3e-4,
        "train.max_steps": 100,
        "train.evaluate_before": False,
        "evaluation.distance": "cosine",
        "evaluation.flip": True,
    }
    return changed(load_config(Path(__file__).with_name("demo.py")), values)
