"""Batches of frames -> tracklet features."""

from typing import TYPE_CHECKING, Any

from stf_jax.models.backbones import BACKBONES, Backbone
from stf_jax.models.build import build_model
from stf_jax.models.fusion import Embedding, IntraAttention, RelationNetwork, StageAttention
from stf_jax.models.mobilenet import MobileNetV2
from stf_jax.models.resnet import ResNet
from stf_jax.models.temporal_fusion_net import TemporalFusionNet, TemporalFusionOutput

if TYPE_CHECKING:
    from stf_jax.models.weights.pretrained import (
        load_pretrained,
        variables_from_torch,
        variables_to_torch,
    )

__all__ = [
    "BACKBONES",
    "Backbone",
    "Embedding",
    "IntraAttention",
    "MobileNetV2",
    "RelationNetwork",
    "ResNet",
    "StageAttention",
    "TemporalFusionNet",
    "TemporalFusionOutput",
    "build_model",
    "load_pretrained",
    "variables_from_torch",
    "variables_to_torch",
]


def __getattr__(name: str) -> Any:
    """Import what reads and writes files of weights, and the packages it needs, on first use."""
    if name in __all__:
        from stf_jax.models.weights import pretrained

        return getattr(pretrained, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
