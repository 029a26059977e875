"""Fresh variables are drawn by the seed; a model has the fields that it was asked for."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from stf_jax.config import ModelConfig
from stf_jax.models import TemporalFusionNet, build_model
from stf_jax.models.temporal_fusion_net import TemporalFusionOutput
from stf_jax.models.variables import init_variables


class Drawn(TemporalFusionNet):
    """Has three drawn parameters, and one of the image's size."""

    def setup(self) -> None:
        """No parts."""

    @nn.compact
    def packed(self, frames, tracklet, slot, *, num_tracklets, num_slots, train=False):
        self.variable("batch_stats", "size", lambda: jnp.array(frames.shape[1:3]))
        drawn = self.param("embedding", nn.initializers.normal(), (3,))
        others: Any = [None] * 5
        return TemporalFusionOutput(drawn[None, None], None, *others)


def test_variables_are_of_the_seed_and_the_size() -> None:
    def drawn(seed: int, height: int, width: int) -> np.ndarray:
        variables = init_variables(Drawn(num_classes=0), seed, height, width)
        assert variables["batch_stats"]["size"].tolist() == [height, width]
        return np.asarray(variables["params"]["embedding"])

    np.testing.assert_array_equal(drawn(5, 32, 16), drawn(5, 64, 48))
    assert not np.isclose(drawn(5, 32, 16), drawn(6, 32, 16)).any()


def test_a_model_has_its_classes_and_its_axis() -> None:
    config = ModelConfig(backbone="resnet18", stages=(3, 4), dtype="bfloat16")
    model = build_model(config, 7, axis_name="devices")
    assert (model.num_classes, model.axis_name) == (7, "devices")
    assert (model.backbone, model.stages, model.dtype) == ("resnet18", (3, 4), jnp.bfloat16)
    assert (build_model(config, 0).num_classes, build_model(config, 0).axis_name) == (0, None)
