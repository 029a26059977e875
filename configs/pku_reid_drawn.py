"""PKU-Reid: the demo's mean-pooling model, which drawn people taught, fine-tuned on half of them.

The paper's parts are added to it: both attentions, and stage 2 through a gate that starts at 0.
Each stage's feature has statistics and a loss of its own (docs/measured.md: +0.9 mAP).
`scripts/real_people.sh DIR --config configs/pku_reid_drawn.py` trains this and its mean pooling.
"""

from pathlib import Path

from stf_jax.config import Config, changed, load_config


def get_config() -> Config:
    values = {
        "pretrained": "runs/demo-0/mean-pooling",  # scripts/demo.sh 0
        "pretrained_partial": True,  # it has no attentions
        # A camera's colours are those of all frames of a tracklet.
        "augment.per": "tracklet",
        "augment.hsv_hue": 10,
        "augment.hsv_saturation": 40,
        "augment.hsv_value": 30,
        "model.backbone": "resnet18",
        "model.last_stride": 2,
        "model.embed_dim": 256,
        "model.tail_statistics": "own",
        "loss.stage_weight": 1.0,
        "train.max_steps": 300,
    }
    return changed(load_config(Path(__file__).with_name("pku_reid.py")), values)
