"""The `model` section of a config -> a model."""

from dataclasses import asdict

import jax.numpy as jnp

from stf_jax.config import ModelConfig
from stf_jax.models.temporal_fusion_net import TemporalFusionNet

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build_model(
    config: ModelConfig, num_classes: int, *, axis_name: str | None = None
) -> TemporalFusionNet:
    """Return the model that the section `config` describes, with so many classes (0: none)."""
    fields = asdict(config)
    fields["dtype"] = DTYPES[config.dtype]
    return TemporalFusionNet(num_classes=num_classes, axis_name=axis_name, **fields)
