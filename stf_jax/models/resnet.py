"""ResNet-18/34/50/101/152 feature maps, stage by stage.

He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), in the variant torchvision
made common: stride in the 3x3 convolution of a bottleneck, explicit symmetric padding. Two changes
as person re-identification uses them: the stride and the dilation of the last stage are settings
(`last_stride` 1 keeps a 24x8 map of a 384x128 image). Weights come from a file, see `pretrained`.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stf_jax.models.batch_norm import BatchNorm

# name -> (bottleneck blocks?, blocks per stage)
RESNETS = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}

# Maps of at most this many pixels are convolved as a product over patches.
SMALL_MAP = 32


def max_pool_3x3(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """3x3 maximum with stride 2 and padding 1 (never chosen: -inf).

    Written as maxima of shifted slices: the gradient of a windowed reduction is several times
    slower on CPUs, and the two agree wherever the maximum is unique. The input is a ReLU's output,
    whose only ties, at zero, carry no gradient.
    """
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    for axis in (1, 2):
        size = (x.shape[axis] - 3) // 2 + 1
        parts = [
            jax.lax.slice_in_dim(x, k, k + 2 * (size - 1) + 1, stride=2, axis=axis)
            for k in range(3)
        ]
        x = jnp.maximum(jnp.maximum(parts[0], parts[1]), parts[2])
    return x


def shifted(
    x: Float[Array, "n h w c"], kernel: int, stride: int, dilation: int, pad: int
) -> list[Float[Array, "n h2 w2 c"]]:
    """What each of a kernel's `kernel` x `kernel` elements meets at every output pixel, by rows."""
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    reach = dilation * (kernel - 1)
    h, w = (x.shape[1] - reach - 1) // stride + 1, (x.shape[2] - reach - 1) // stride + 1
    offsets = [dilation * i for i in range(kernel)]
    rows = [slice(i, i + stride * (h - 1) + 1, stride) for i in offsets]
    columns = [slice(i, i + stride * (w - 1) + 1, stride) for i in offsets]
    return [x[:, r, c] for r in rows for c in columns]


def pixelwise(x: Float[Array, "n h w c"], matrix: Float[Array, "c d"]) -> Float[Array, "n h w d"]:
    """Multiply each pixel's channels by `matrix`.

    Written as a product of two matrices: for a product with the four-dimensional `x`, XLA's CPU
    compiler stores a transposed copy of the result's gradient, which cost a ResNet-50's training
    step at 384x128 a seventh of its time.
    """
    rows = x.reshape(-1, x.shape[-1]) @ matrix
    return rows.reshape(*x.shape[:-1], matrix.shape[-1])


class Conv(nn.Module):
    """Bias-free convolution, padded by `dilation * (kernel // 2)` on each side.

    `depthwise`: each of the input's channels, as many as `features`, has a kernel of its own.

    On CPUs a 1x1 convolution is computed as a matrix product, and one of a small map as a product
    over its patches: the same function, and XLA's faster one there (training of ResNet-50: 1.4
    times; a 4x2 map: a hundred times). Other platforms get the convolution: their libraries are
    faster, and XLA's GPU compiler aborts on a product over a strided slice (openxla/xla 47381). A
    depthwise one is a sum of shifted maps on CPUs (30 to 50 times, its gradient 6 to 130 times).
    """

    features: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    depthwise: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        """Convolve; the output is ceil(h / stride) high for odd kernels and dilation 1."""
        k, s, d = self.kernel, self.stride, self.dilation
        # He initialisation over the fan-out, as torchvision.
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        inputs = 1 if self.depthwise else x.shape[-1]
        weight = self.param("kernel", init, (k, k, inputs, self.features), self.param_dtype)
        x, weight = x.astype(self.dtype), weight.astype(self.dtype)
        pad = d * (k // 2)

        def product(x: Array, weight: Array) -> Array:
            if k == 1:
                return pixelwise(x[:, ::s, ::s], weight[0, 0])
            met = shifted(x, k, s, d, pad)
            if self.depthwise:
                elements = weight.reshape(k * k, 1, 1, 1, -1)
                y = met[0] * elements[0]
                for part, element in zip(met[1:], elements[1:], strict=True):
                    y = y + part * element
                return y
            return pixelwise(jnp.concatenate(met, -1), weight.reshape(-1, self.features))

        def convolution(x: Array, weight: Array) -> Array:
            return jax.lax.conv_general_dilated(
                x,
                weight,
                (s, s),
                ((pad, pad), (pad, pad)),
                rhs_dilation=(d, d),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=x.shape[-1] if self.depthwise else 1,
            )

        if k == 1 or self.depthwise or x.shape[1] * x.shape[2] <= SMALL_MAP:
            return jax.lax.platform_dependent(x, weight, cpu=product, default=convolution)
        return convolution(x, weight)


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 when `bottleneck`."""

    width: int
    bottleneck: bool
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

        def conv_bn(y, name, features, kernel=3, stride=1, dilation=1, residual=None, relu=True):
            y = Conv(features, kernel, stride, dilation, **types, name=f"conv{name}")(y)
            bn = BatchNorm(relu=relu, axis_name=self.axis_name, **types, name=f"bn{name}")
            return bn(y, mask, residual, train=train)

        out = self.width * 4 if self.bottleneck else self.width
        shortcut = x
        if self.stride != 1 or x.shape[-1] != out:
            shortcut = conv_bn(x, "_shortcut", out, kernel=1, stride=self.stride, relu=False)
        strided = partial(conv_bn, stride=self.stride, dilation=self.dilation)
        if self.bottleneck:
            y = conv_bn(x, "1", self.width, kernel=1)
            y = strided(y, "2", self.width)
            return conv_bn(y, "3", out, kernel=1, residual=shortcut)
        y = strided(x, "1", out)
        return conv_bn(y, "2", out, residual=shortcut)


class ResNet(nn.Module):
    """The four stages of a ResNet, without its pooling and classifier.

    `last_stride` and `last_dilation` belong to the first block of stage 4, as in the reference.
    `remat` recomputes each block's inside in the backward pass: less memory, about a third more
    arithmetic. `axis_name` synchronises the statistics of all devices under that axis.
    """

    backbone: str = "resnet50"
    last_stride: int = 1
    last_dilation: int = 1
    remat: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        """Create the layers, named as in torchvision: conv1, bn1, layer1_0 ... layer4_2."""
        bottleneck, depths = RESNETS[self.backbone]
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        block = nn.remat(Block, static_argnums=(3,)) if self.remat else Block
        self.conv1 = Conv(64, 7, 2, **types)
        self.bn1 = BatchNorm(axis_name=self.axis_name, **types)
        for stage, depth in enumerate(depths, start=1):
            stride = {1: 1, 2: 2, 3: 2, 4: self.last_stride}[stage]
            dilation = self.last_dilation if stage == 4 else 1
            blocks = [
                block(
                    64 * 2 ** (stage - 1),
                    bottleneck,
                    stride if i == 0 else 1,
                    dilation if i == 0 else 1,
                    axis_name=self.axis_name,
                    **types,
                )
                for i in range(depth)
            ]
            setattr(self, f"layer{stage}", blocks)

    def stem(
        self, frames: Float[Array, "n h w 3"], mask: Bool[Array, " n"] | None, *, train: bool
    ) -> Float[Array, "n h4 w4 64"]:
        """Convolve 7x7, normalise, ReLU, pool: a quarter of the image's height and width."""
        x = self.bn1(self.conv1(frames), mask, train=train)
        return max_pool_3x3(nn.relu(x))

    def stage(
        self,
        number: int,
        x: Float[Array, "n h w c"],
        mask: Bool[Array, " n"] | None,
        *,
        train: bool,
    ) -> Float[Array, "n h2 w2 d"]:
        """Apply stage `number` (1..4) to the output of the one before it."""
        for block in getattr(self, f"layer{number}"):
            x = block(x, mask, train)
        return x

    def __call__(
        self, frames: Float[Array, "n h w 3"], mask: Bool[Array, " n"] | None = None, *, train: bool
    ) -> tuple[Float[Array, "n _h _w _c"], ...]:
        """Return the maps of stages 1, 2, 3 and 4 of normalised `frames`."""
        x = self.stem(frames, mask, train=train)
        maps = []
        for number in (1, 2, 3, 4):
            x = self.stage(number, x, mask, train=train)
            maps.append(x)
        return tuple(maps)
