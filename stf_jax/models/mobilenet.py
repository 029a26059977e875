"""MobileNetV2 feature maps, stage by stage: a small and fast backbone.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (CVPR 2018), in
torchvision's variant, width 1, without its pooling and classifier: 2,223,872 parameters. Stride and
dilation of the last stage are settings, as in `resnet`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stf_jax.models.batch_norm import BatchNorm
from stf_jax.models.resnet import Conv

# Inverted residuals as the paper lists them: expansion, channels, how many, stride of the first.
_BLOCKS = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)
# Where each stage begins in torchvision's `features`; 19 is their number.
_FIRST = {1: 0, 2: 4, 3: 7, 4: 14, 5: 19}


class ConvBN(nn.Module):
    """A convolution, BatchNorm, ReLU6: the first and the last of the features."""

    features: int
    kernel: int = 1
    stride: int = 1
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], mask: Bool[Array, " n"] | None, train: bool
    ) -> Float[Array, "n h2 w2 d"]:
        """Map `x`; rows outside `mask` are computed but enter no statistics."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = Conv(self.features, self.kernel, self.stride, **types, name="conv")(x)
        bn = BatchNorm(relu=True, ceiling=6, axis_name=self.axis_name, **types, name="bn")
        return bn(x, mask, train=train)


class InvertedResidual(nn.Module):
    """Expands the channels, convolves each for itself, projects; the input is added if it fits."""

    features: int
    expansion: int
    stride: int = 1
    dilation: int = 1
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], mask: Bool[Array, " n"] | None, train: bool
    ) -> Float[Array, "n h2 w2 d"]:
        """Map `x`; rows outside `mask` are computed but enter no statistics."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def conv_bn(y, name, features, residual=None, *, kernel=1, relu=True, **options):
            y = Conv(features, kernel, **options, **types, name=f"{name}_conv")(y)
            axis_name = self.axis_name
            bn = BatchNorm(relu=relu, ceiling=6, axis_name=axis_name, **types, name=f"{name}_bn")
            return bn(y, mask, residual, train=train)

        inner = self.expansion * x.shape[-1]
        y = x if self.expansion == 1 else conv_bn(x, "expand", inner)
        options = {"stride": self.stride, "dilation": self.dilation, "depthwise": True}
        y = conv_bn(y, "depthwise", inner, kernel=3, **options)
        fits = self.stride == 1 and x.shape[-1] == self.features
        return conv_bn(y, "project", self.features, x if fits else None, relu=False)


class MobileNetV2(nn.Module):
    """The four stages of a MobileNetV2: 24, 32, 96 and 1280 channels at 1/4, 1/8, 1/16, 1/32.

    `last_stride` and `last_dilation` belong to the first block of stage 4; a stride of 1 keeps the
    map at 1/16. `remat`, `axis_name` and the types as in `ResNet`.
    """

    last_stride: int = 1
    last_dilation: int = 1
    remat: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        """Create the layers, numbered as in torchvision: features_0 ... features_18."""
        common = {"dtype": self.dtype, "param_dtype": self.param_dtype, "axis_name": self.axis_name}
        block = nn.remat(InvertedResidual, static_argnums=(3,)) if self.remat else InvertedResidual
        features: list[nn.Module] = [ConvBN(32, 3, 2, **common)]
        for expansion, channels, count, stride in _BLOCKS:
            for i in range(count):
                how = stride if i == 0 else 1, 1
                if len(features) == _FIRST[4]:
                    how = self.last_stride, self.last_dilation
                features.append(block(channels, expansion, *how, **common))
        self.features = [*features, ConvBN(1280, **common)]

    def stage(
        self,
        number: int,
        x: Float[Array, "n h w c"],
        mask: Bool[Array, " n"] | None,
        *,
        train: bool,
    ) -> Float[Array, "n h2 w2 d"]:
        """Apply stage `number` (1..4) to the output of the one before it, 1 to the frames."""
        for layer in self.features[_FIRST[number] : _FIRST[number + 1]]:
            x = layer(x, mask, train)
        return x

    def __call__(
        self, frames: Float[Array, "n h w 3"], mask: Bool[Array, " n"] | None = None, *, train: bool
    ) -> tuple[Float[Array, "n _h _w _c"], ...]:
        """Return the maps of stages 1, 2, 3 and 4 of normalised `frames`."""
        x, maps = frames, []
        for number in (1, 2, 3, 4):
            x = self.stage(number, x, mask, train=train)
            maps.append(x)
        return tuple(maps)
