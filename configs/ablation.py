"""The paper's ablation (tables 1 and 2): which stages are fused, which attention weighs frames.

Named variants of one config, by default the demo's; `scripts/ablate.sh` runs them over seeds. The
paper's order is the hypothesis: multi-stage over late, both attentions over one over none.
"""

from pathlib import Path

from stf_jax.config import Config, changed, load_config

# name -> (stages, frame attention, stage attention)
VARIANTS = {
    "late, none": ((4,), (), "mean"),
    "late, both": ((4,), ("intra", "inter"), "mean"),
    "2+4, none": ((2, 4), (), "mean"),
    "2+4, intra": ((2, 4), ("intra",), "mean"),
    "2+4, inter": ((2, 4), ("inter",), "mean"),
    "2+4, both": ((2, 4), ("intra", "inter"), "mean"),
    "2+3+4, both": ((2, 3, 4), ("intra", "inter"), "mean"),
    "2+4, both, learned": ((2, 4), ("intra", "inter"), "learned"),
    "2+4, both, gated": ((2, 4), ("intra", "inter"), "gated"),
}
# What the paper claims, and what the stage attentions add: variant, and what it is to be above.
CLAIMS = (
    ("late, both", "late, none"),
    ("2+4, both", "late, none"),
    ("2+4, both", "2+4, none"),
    ("2+4, both", "2+4, intra"),
    ("2+4, both", "2+4, inter"),
    ("2+4, both", "late, both"),
    ("2+3+4, both", "late, both"),
    ("2+4, both, learned", "late, both"),
    ("2+4, both, gated", "late, both"),
    ("2+4, both, gated", "late, none"),
)


def get_config() -> Config:
    demo = load_config(Path(__file__).with_name("demo.py"))
    return changed(demo, {"train.evaluate_before": False})
