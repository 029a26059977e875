"""How many parameters each config's model has, and each variant of the ablation: exact numbers.

The parts are counted here by hand: R-18 and R-50 are torchvision's without `fc`; an embedding of C
channels has a linear layer and a BatchNorm's scale and bias; the relation network's first layer
takes 2C, its others are the same in all.
"""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from stf_jax.config import Config, changed, load_config
from stf_jax.models import build_model

CONFIGS = Path(__file__).parents[1] / "configs"
R18, R50 = 11_176_512, 23_508_032

# With bias: 768 -> 512 -> 512 -> 512 -> 128 -> 1.
RELATION = (768 + 1) * 512 + 2 * (512 + 1) * 512 + (512 + 1) * 128 + (128 + 1)
EMBED_256, EMBED_4096 = (512 + 3) * 256, (2048 + 3) * 4096
INTRA_256, INTRA_4096 = 256 + 3, 4096 + 3
INTER_256, INTER_4096 = (2 * 256 + 1) * 768 + RELATION, (2 * 4096 + 1) * 768 + RELATION
LEARNED_256 = 256 + 1

# The demo's 140 training people, street's five; the training identities of the others.
PUBLISHED = R50 + EMBED_4096 + INTRA_4096 + INTER_4096
# MobileNetV2, C = 512.
MOBILE = 2_223_872 + (1280 + 3) * 512 + (512 + 3) + (2 * 512 + 1) * 768 + RELATION + 1
DRAWN = R18 + EMBED_256 + INTRA_256 + INTER_256
EXPECTED = {
    "mars": (625, PUBLISHED + (4096 + 1) * 625),
    "ilids_vid": (150, PUBLISHED + (4096 + 1) * 150),
    "prid2011": (89, PUBLISHED + (4096 + 1) * 89),
    "ls_vid": (842, PUBLISHED + (4096 + 1) * 842),
    # The strong recipe: a gate, a neck, and no bias in the classifier.
    "mars_strong": (625, PUBLISHED + 1 + 2 * 4096 + 4096 * 625),
    "ilids_vid_strong": (150, PUBLISHED + 1 + 2 * 4096 + 4096 * 150),
    "demo": (140, DRAWN + LEARNED_256 + (256 + 1) * 140),
    "ablation": (140, DRAWN + LEARNED_256 + (256 + 1) * 140),
    "pku_reid": (37, MOBILE + (512 + 1) * 37),
    "pku_reid_drawn": (37, DRAWN + 1 + (256 + 1) * 37),
    "street": (5, DRAWN + LEARNED_256 + (256 + 1) * 5),
}
CLASSES_140 = (256 + 1) * 140
VARIANTS = {
    "late, none": R18 + EMBED_256 + CLASSES_140,
    "late, both": DRAWN + CLASSES_140,
    "2+4, none": R18 + EMBED_256 + CLASSES_140,
    "2+4, intra": R18 + EMBED_256 + INTRA_256 + CLASSES_140,
    "2+4, inter": R18 + EMBED_256 + INTER_256 + CLASSES_140,
    "2+4, both": DRAWN + CLASSES_140,
    "2+3+4, both": DRAWN + CLASSES_140,
    "2+4, both, learned": DRAWN + LEARNED_256 + CLASSES_140,
    "2+4, both, gated": DRAWN + 1 + CLASSES_140,
}


def parameters(config: Config, num_classes: int) -> int:
    model = build_model(config.model, num_classes)
    frames = jax.ShapeDtypeStruct((1, 1, 64, 32, 3), jnp.float32)
    variables: Any = jax.eval_shape(model.init, jax.random.key(0), frames)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def ablation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ablation", CONFIGS / "ablation.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_config_has_a_count() -> None:
    assert {path.stem for path in CONFIGS.glob("*.py")} == set(EXPECTED)
    assert set(ablation().VARIANTS) == set(VARIANTS)


@pytest.mark.parametrize("name", EXPECTED)
def test_configs(name: str) -> None:
    num_classes, expected = EXPECTED[name]
    assert parameters(load_config(CONFIGS / f"{name}.py"), num_classes) == expected


@pytest.mark.parametrize("name", VARIANTS)
def test_ablation_variants(name: str) -> None:
    config = load_config(CONFIGS / "ablation.py")
    stages, frame_attention, stage_attention = ablation().VARIANTS[name]
    values = {
        "model.stages": stages,
        "model.frame_attention": frame_attention,
        "model.stage_attention": stage_attention,
    }
    assert parameters(changed(config, values), 140) == VARIANTS[name]
