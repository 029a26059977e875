"""The untrained baseline: where on the body which colours are, averaged over a tracklet.

What a network is worth shows against this. It knows no texture, no shape and no identity; it wins
where clothes differ and the light does not.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from stf_jax.data.layout.partitions import TrackletTable
from stf_jax.data.pictures import PictureError, read_picture
from stf_jax.errors import UserError

BINS = (6, 10, 10)
"""Bins of lightness 0..100, a -60..60 and b -60..60; what is beyond falls into the outer ones."""

_STEPS = 64  # levels each RGB channel is quantised to


def rgb_to_lab(rgb: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """CIE L*a*b* (white D65) of sRGB colours in 0..1; L in 0..100 (IEC 61966-2-1, CIE 15)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    relative = (linear @ to_xyz.T) / to_xyz.sum(axis=1)
    root = np.where(
        relative > (6 / 29) ** 3, np.cbrt(relative), relative / (3 * (6 / 29) ** 2) + 4 / 29
    )
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@lru_cache(maxsize=4)
def _bin_of_colour(bins: tuple[int, int, int]) -> Int64[np.ndarray, " colours"]:
    """The histogram bin of every RGB colour, at `_STEPS` levels a channel."""
    levels = (np.arange(_STEPS) + 0.5) / _STEPS
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    low, span = np.array([0.0, -60.0, -60.0]), np.array([100.0, 120.0, 120.0])
    place = np.floor((rgb_to_lab(rgb) - low) / span * np.array(bins)).astype(np.int64)
    place = np.clip(place, 0, np.array(bins) - 1)
    return (place[:, 0] * bins[1] + place[:, 1]) * bins[2] + place[:, 2]


def image_histogram(
    image: UInt8[np.ndarray, "h w 3"], *, stripes: int = 6, bins: tuple[int, int, int] = BINS
) -> Float[np.ndarray, "s k"]:
    """LAB histograms of the horizontal stripes of one RGB image; each sums to 1.

    Row r is in stripe floor(r s / h). An image of fewer rows than stripes: ValueError.
    """
    height = image.shape[0]
    if height < stripes:
        raise ValueError(f"an image of {height} rows has no {stripes} stripes")
    shift = 256 // _STEPS
    levels = image.astype(np.int64) // shift
    colours = (levels[..., 0] * _STEPS + levels[..., 1]) * _STEPS + levels[..., 2]
    stripe = np.arange(height) * stripes // height
    num_bins = int(np.prod(bins))
    code = _bin_of_colour(bins)[colours] + stripe[:, None] * num_bins
    counts = np.bincount(code.ravel(), minlength=stripes * num_bins).reshape(stripes, num_bins)
    return counts / counts.sum(axis=1, keepdims=True)


def _read_rgb(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        return np.asarray(read_picture(path))
    except PictureError as error:
        raise UserError(f"{path}: cannot be read as an image ({error}); replace it") from error


def colour_histograms(
    table: TrackletTable,
    tracklets: Sequence[int] | np.ndarray | None = None,
    *,
    stripes: int = 6,
    bins: tuple[int, int, int] = BINS,
) -> Float32[np.ndarray, "n d"]:
    """One feature per tracklet, to be compared by Euclidean or cosine distance.

    The frames' histograms are averaged over the tracklet; the square root of the mean (Hellinger)
    is divided by the square root of the number of stripes, so that every feature has L2 norm 1.

    Args:
        table: tracklets of a layout.
        tracklets: indices of those wanted, in the wanted order; None for all.
        stripes: horizontal parts of an image, each with a histogram of its own.
        bins: of lightness, a and b.

    Returns:
        n tracklets, d = stripes * product of bins.

    Raises:
        UserError: an image that cannot be read.
    """
    chosen = np.arange(table.num_tracklets) if tracklets is None else np.asarray(tracklets)
    features = np.zeros((len(chosen), stripes * int(np.prod(bins))), np.float32)
    for row, tracklet in enumerate(chosen):
        names = table.names[table.offsets[tracklet] : table.offsets[tracklet + 1]]
        total = np.zeros((stripes, int(np.prod(bins))))
        for name in names:
            image = _read_rgb(table.image_dir / os.fsdecode(name))
            total += image_histogram(image, stripes=stripes, bins=bins)
        features[row] = np.sqrt(total.ravel() / (len(names) * stripes))
    return features
