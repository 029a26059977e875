"""MARS: the paper's fusion and attentions on a strong ResNet-50 recipe.

What differs from `mars.py`, with the source of each value:

- [bag] Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification" (CVPRW
  2019), which is about single images;
- [video] how ResNet-50 is trained on clips by Wang et al., "Pyramid Spatial-Temporal Aggregation
  for Video-based Person Re-Identification" (PSTA, ICCV 2021), and Bai et al., "Salient-to-Broad
  Transition for Video Person Re-identification" (SINet, CVPR 2022) and "SANet: Statistic Attention
  Network for Video-Based Person Re-Identification" (TCSVT 2021);
- [here] a choice of this project, not tuned on MARS.

For the recipe's own mean pooling: `--config.model.stages="(4,)"` and
`--config.model.frame_attention="()"`.
It has not been trained on MARS here yet.
"""

from pathlib import Path

from stf_jax.config import Config, changed, load_config


def get_config() -> Config:
    values = {
        "data.height": 256,  # [bag], [video]
        "data.width": 128,
        "data.sampler": "identity",
        "data.tracklets": 32,  # [video] 8 identities x
        "data.tracklets_per_identity": 4,  # 4 tracklets
        "data.min_frames": 4,  # [video] 4 to 8 frames of a clip
        "data.max_frames": 8,
        "data.frame_sampling": "segments",  # [video] restricted random sampling
        "data.frame_buckets": 4,  # [here]
        "augment.per": "tracklet",  # [video] the frames of a clip are changed alike
        "augment.mirror": 0.5,  # [bag], [video]
        "augment.blur": 0.0,  # neither has any
        "augment.erase": 0.5,  # [bag], [video]
        "augment.erase_area": (0.02, 0.4),  # [bag]
        "augment.erase_aspect": (0.3, 3.3),  # [bag]
        "model.last_stride": 1,  # [bag]
        # [here] equal shares of the stages cost on real people, a gate does not (docs/measured.md).
        "model.stage_attention": "gated",
        # [here] and statistics and losses of the stages' own bring back what the gate costs there.
        "model.tail_statistics": "own",
        "loss.stage_weight": 1.0,
        "model.neck": "bnneck",  # [bag]
        "model.neck_feature": "after",  # [bag] with cosine distance
        "loss.label_smoothing": 0.1,  # [bag]
        "loss.triplet_weight": 1.0,  # [bag]
        "loss.triplet_distance": "cosine",  # [video]
        "loss.triplet_margin": 0.3,  # [bag], [video]
        "optimizer.name": "adam",  # [bag], [video]
        "optimizer.weight_decay": 5e-4,  # [bag], [video]
        "optimizer.lr_backbone": 3.5e-4,  # [bag], [video]: one rate for all parts
        "optimizer.lr_classifier": 3.5e-4,
        "optimizer.lr_rest": 3.5e-4,
        "optimizer.warmup_epochs": 10.0,  # [bag] linear
        "optimizer.schedule": "cosine",  # [here] in place of two or more steps
        "train.epochs": 240,  # [here] of 79 steps: every identity once
        "train.evaluate_every": 20,  # [here]
        # [here] the neck's moments are of tracklets, of which a device may have too few.
        "train.sync_batch_norm": True,
        "evaluation.chunk": 8,  # [here] all frames, as many at once as in training
        "evaluation.frames_per_device": 128,  # [here]
        "evaluation.distance": "cosine",  # [bag], [video]
    }
    return changed(load_config(Path(__file__).with_name("mars.py")), values)
