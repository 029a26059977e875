"""Augmentation on the device: uint8 frames -> normalised floats, parameters drawn for each frame.

Frames of the same index have the same draws: that is how `AugmentConfig.per` draws for tracklets.

Drawing parameters is separate from applying them, so that each augmentation is a plain function.
The order: colour jitter (it works on 8-bit values), shift, mirror, blur, erasing, normalisation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray, UInt8

from stf_jax.config import AugmentConfig
from stf_jax.data.image_statistics import IMAGE_MEAN, IMAGE_STD

_MEAN = 255.0 * np.array(IMAGE_MEAN, np.float32)
_STD = 255.0 * np.array(IMAGE_STD, np.float32)


class Draws(NamedTuple):
    """Random parameters of M frames; the neutral value of each leaves the frame as it is."""

    jitter: Bool[Array, " m"]  # whether colours change at all; False
    jitter_offsets: Int[Array, "m 3"]  # added to 8-bit hue (0..179), saturation and value
    shift: Int[Array, "m 2"]  # pixels down and right; 0
    mirror: Bool[Array, " m"]  # False
    blur: Int[Array, " m"]  # size of the Gaussian kernel, odd; 1
    box: Int[Array, "m 4"]  # top, left, height, width of the erased rectangle; empty


def normalise(
    images: Num[Array | np.ndarray, "*m h w 3"], dtype: DTypeLike = jnp.float32
) -> Float[Array, "*m h w 3"]:
    """(pixel / 255 - mean) / std for each colour, computed in float32, returned as `dtype`.

    Args:
        images: RGB, 0..255.
        dtype: float32 or bfloat16.

    Mean and deviation are those of the reference (`IMAGE_MEAN`, `IMAGE_STD`).
    """
    shape = (1,) * (images.ndim - 1) + (3,)
    scaled = (jnp.asarray(images, jnp.float32) - _MEAN.reshape(shape)) / _STD.reshape(shape)
    return scaled.astype(dtype)


def augment(
    key: PRNGKeyArray,
    images: UInt8[Array | np.ndarray, "m h w 3"],
    options: AugmentConfig,
    *,
    index: Int[Array, " m"] | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "m h w 3"]:
    """Randomly changed, normalised frames; to be called under jit with `options` closed over.

    Args:
        key: of this step. A frame depends on `key`, its index and its pixels only.
        images: RGB, 0..255.
        options: probabilities and limits; those of `horizontal_crop` and padding are not used here.
        index: of each frame in the step, over all devices; by default 0..M-1.
        dtype: float32 or bfloat16.
    """
    num_frames, height, width, _ = images.shape
    index = jnp.arange(num_frames) if index is None else index
    draws = draw(key, index, height, width, options)
    pixels = jnp.asarray(images, jnp.float32)
    # An augmentation that is off costs nothing: the options are known when this is traced.
    if options.hsv > 0:
        pixels = jnp.where(_wide(draws.jitter), jitter_hsv(pixels, draws.jitter_offsets), pixels)
    if options.crop > 0:
        pixels = shift(pixels, draws.shift)
    if options.mirror > 0:
        pixels = jnp.where(_wide(draws.mirror), pixels[:, :, ::-1], pixels)
    if options.blur > 0 and max(options.blur_kernels) > 1:
        pixels = blur(pixels, draws.blur, options.blur_sigma, max(options.blur_kernels))
    if options.erase > 0:
        pixels = erase(pixels, draws.box)
    return normalise(pixels, dtype)


def draw(
    key: PRNGKeyArray, index: Int[Array, " m"], height: int, width: int, options: AugmentConfig
) -> Draws:
    """Draws for frames of H x W pixels, each by `key` and its index."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    # Each parameter has a column of its own, so that switching one augmentation on leaves the
    # others as they were.
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (15,)))(keys)
    size = np.array([[height, width]], np.float32)

    def happens(column: int, probability: float) -> Bool[Array, " m"]:
        return uniform[:, column] < probability

    def whole(columns: slice, limits: Sequence[int]) -> Int[Array, "m n"]:
        span = 2 * np.array([limits], np.float32) + 1  # -limit..limit
        return (uniform[:, columns] * span).astype(jnp.int32) - np.array([limits])

    def between(column: int, limits: tuple[float, float]) -> Float[Array, " m"]:
        return limits[0] + (limits[1] - limits[0]) * uniform[:, column]

    padding = [round(options.crop_padding * side) for side in (height, width)]
    kernels = np.array(options.blur_kernels)
    kernel = jnp.asarray(kernels)[(uniform[:, 9] * len(kernels)).astype(jnp.int32)]
    area = between(11, options.erase_area) * (height * width)
    aspect = between(12, options.erase_aspect)
    sides = jnp.round(jnp.sqrt(jnp.stack([area * aspect, area / aspect], axis=1)))
    sides = jnp.clip(sides, 1, size)
    corner = jnp.floor(uniform[:, 13:15] * (size - sides + 1))
    box = jnp.concatenate([corner, sides], axis=1).astype(jnp.int32)
    return Draws(
        jitter=happens(0, options.hsv),
        jitter_offsets=whole(
            slice(1, 4), (options.hsv_hue, options.hsv_saturation, options.hsv_value)
        ),
        shift=jnp.where(happens(4, options.crop)[:, None], whole(slice(5, 7), padding), 0),
        mirror=happens(7, options.mirror),
        blur=jnp.where(happens(8, options.blur), kernel, 1),
        box=jnp.where(happens(10, options.erase)[:, None], box, 0),
    )


def jitter_hsv(
    pixels: Float[Array, "m h w 3"], offsets: Int[Array, "m 3"]
) -> Float[Array, "m h w 3"]:
    """Adds to hue, saturation and value in 8 bits: hue 0..179 (steps of 2 degrees), others 0..255.

    The three are rounded to whole numbers before, and clipped to their ranges after the addition
    (hue, too: it does not wrap, as in the reference). The result is not rounded.
    """
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    value = pixels.max(axis=-1)
    spread = value - pixels.min(axis=-1)
    nonzero = jnp.maximum(spread, 1)  # whole numbers: 1 at least, or grey
    sector = jnp.where(
        value == red,
        (green - blue) / nonzero,
        jnp.where(value == green, 2 + (blue - red) / nonzero, 4 + (red - green) / nonzero),
    )
    hue = jnp.round(sector * 30) % 180
    saturation = jnp.round(255 * spread / jnp.maximum(value, 1))
    hsv = jnp.stack([hue, saturation, value], axis=-1) + offsets[:, None, None, :]
    limits = jnp.array([179.0, 255.0, 255.0]).reshape(1, 1, 1, 3)
    hsv = jnp.clip(hsv, 0, limits)
    hue, saturation, value = hsv[..., :1] / 30, hsv[..., 1:2] / 255, hsv[..., 2:]
    # A colour is at full value within one sector of its own hue and falls to the grey opposite.
    offset = (hue + jnp.array([5.0, 3.0, 1.0]).reshape(1, 1, 1, 3)) % 6
    return value * (1 - saturation * jnp.clip(jnp.minimum(offset, 4 - offset), 0, 1))


def shift(pixels: Float[Array, "m h w 3"], by: Int[Array, "m 2"]) -> Float[Array, "m h w 3"]:
    """Frames moved by `by` pixels down and right, the image mean where nothing was.

    The same as padding on all sides with the mean and cropping the old size out of it.
    """
    height, width = pixels.shape[1:3]

    def one(frame, by):
        rows, columns = jnp.arange(height) - by[0], jnp.arange(width) - by[1]
        moved = frame[jnp.clip(rows, 0, height - 1)][:, jnp.clip(columns, 0, width - 1)]
        inside = _within(rows, 0, height)[:, None] & _within(columns, 0, width)[None, :]
        return jnp.where(inside[..., None], moved, _MEAN.reshape(1, 1, 3))

    return jax.vmap(one)(pixels, by)


def blur(
    pixels: Float[Array, "m h w 3"], kernel: Int[Array, " m"], sigma: float, largest: int
) -> Float[Array, "m h w 3"]:
    """Gaussian blur with a kernel size of each frame's own, borders mirrored (without the edge).

    Args:
        pixels: any range; the result is not rounded.
        kernel: sizes, odd, 1 (no change) to `largest`.
        sigma: pixels, for every size.
        largest: at most 2 * min(H, W) - 1.
    """
    reach = largest // 2
    distance = jnp.arange(-reach, reach + 1)
    weights = jnp.exp(-(distance**2) / (2 * sigma**2))[None, :]
    weights = jnp.where(jnp.abs(distance)[None, :] <= kernel[:, None] // 2, weights, 0)
    weights = weights / weights.sum(axis=1, keepdims=True)
    for axis in (1, 2):
        size = pixels.shape[axis]
        edges = [(0, 0)] * 4
        edges[axis] = (reach, reach)
        padded = jnp.pad(pixels, edges, mode="reflect")
        pixels = sum(
            (
                weights[:, i, None, None, None]
                * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
                for i in range(1, largest)
            ),
            start=weights[:, 0, None, None, None]
            * jax.lax.slice_in_dim(padded, 0, size, axis=axis),
        )
    return pixels


def erase(pixels: Float[Array, "m h w 3"], box: Int[Array, "m 4"]) -> Float[Array, "m h w 3"]:
    """Frames with the rectangle `box` (top, left, height, width; pixels) set to the image mean."""
    rows, columns = jnp.arange(pixels.shape[1])[None, :], jnp.arange(pixels.shape[2])[None, :]
    top, left, height, width = jnp.split(box, 4, axis=1)
    inside = (
        _within(rows, top, top + height)[:, :, None]
        & _within(columns, left, left + width)[:, None, :]
    )
    return jnp.where(inside[..., None], _MEAN.reshape(1, 1, 1, 3), pixels)


def _within(
    values: Int[Array, "*#n"], start: Int[Array, "*#n"] | int, end: Int[Array, "*#n"] | int
) -> Bool[Array, "*#n"]:
    return (values >= start) & (values < end)


def _wide(flags: Bool[Array, " m"]) -> Bool[Array, "m 1 1 1"]:
    return flags[:, None, None, None]
