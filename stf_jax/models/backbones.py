"""The backbones that there are: whatever gives the maps of four stages."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from jaxtyping import Array, Bool, Float

from stf_jax.models.mobilenet import MobileNetV2
from stf_jax.models.resnet import RESNETS, ResNet


class Backbone(Protocol):
    """What the model needs of a backbone, a `flax.linen.Module`.

    Rows (frames, fused maps) that `mask` [n] leaves out are padding: they are computed, but enter
    no statistics. `None` keeps all. Channels and strides are the backbone's own.
    """

    def __call__(
        self, frames: Float[Array, "n h w 3"], mask: Bool[Array, " n"] | None = None, *, train: bool
    ) -> tuple[Float[Array, "n _h _w _c"], ...]:
        """Return the maps of stages 1, 2, 3 and 4 of normalised `frames`."""
        ...

    def stage(
        self,
        number: int,
        x: Float[Array, "n h w c"],
        mask: Bool[Array, " n"] | None,
        *,
        train: bool,
    ) -> Float[Array, "n h2 w2 d"]:
        """Apply stage `number` (2, 3 or 4) to maps of the stage before it."""
        ...


# config.model.backbone -> what makes it, called with `last_stride`, `last_dilation`, `remat`,
# `axis_name`, `dtype`, `param_dtype` and `name` by keyword; see `ResNet` for what they mean.
BACKBONES: dict[str, Callable[..., Backbone]] = {
    "mobilenet_v2": MobileNetV2,
    **{name: partial(ResNet, name) for name in RESNETS},
}
