"""Batches of frames -> tracklet features."""

from stf_jax.models.build import build_model
from stf_jax.models.resnet import BACKBONES
from stf_jax.models.temporal_fusion_net import TemporalFusionNet, TemporalFusionOutput

__all__ = ["BACKBONES", "TemporalFusionNet", "TemporalFusionOutput", "build_model"]
