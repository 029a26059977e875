"""The `model` section of a config -> a model."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from stf_jax.errors import UserError
from stf_jax.models.temporal_fusion_net import TemporalFusionNet

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
KEYS = (
    "backbone",
    "last_stride",
    "last_dilation",
    "stages",
    "num_stripes",
    "embed_dim",
    "frame_attention",
    "stage_attention",
    "relation_padding",
    "bounded_attention",
    "dtype",
    "remat",
)


def build_model(
    config: Mapping[str, Any], num_classes: int, *, axis_name: str | None = None
) -> TemporalFusionNet:
    """Return the model that the section `config` describes; its keys are `KEYS`.

    Raises UserError with a line per unknown key, or for the first value that does not fit.
    """
    unknown = sorted(set(config) - set(KEYS))
    if unknown:
        known = ", ".join(KEYS)
        raise UserError(
            "\n".join(
                f"config.model.{key}: no such key; expected some of {known}" for key in unknown
            )
        )
    fields = dict(config.items())
    for key in ("stages", "frame_attention"):
        if key in fields:
            value = fields[key]
            if not isinstance(value, tuple | list):
                raise UserError(f"config.model.{key} is {value!r}: expected a tuple")
            fields[key] = tuple(value)
    dtype = fields.pop("dtype", "float32")
    if dtype not in DTYPES:
        raise UserError(f"config.model.dtype is {dtype!r}: expected one of {', '.join(DTYPES)}")
    model = TemporalFusionNet(
        num_classes=num_classes, dtype=DTYPES[dtype], axis_name=axis_name, **fields
    )
    try:
        model.check_fields()
    except ValueError as error:
        raise UserError(f"config.model.{error}") from error
    return model
