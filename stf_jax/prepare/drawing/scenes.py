"""Drawn cameras: where they look, their light and lens."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from stf_jax.prepare.drawing.exact import between, chance


@dataclass(frozen=True)
class Camera:
    """One drawn camera. Gains are in 1/256, angles in 1/256 turns."""

    gains: tuple[int, int, int]  # of red, green, blue: colour cast times brightness
    offset: int  # added after the gain: haze, or crushed blacks
    heading: int  # the way most people walk here
    figure: int  # height of a usual person, per mille of the crop's
    pitch: int
    light: int
    softness: int  # rounds of a 1-2-1 blur over the finished picture
    coarse: bool  # half the resolution
    noise: int  # amplitude, levels
    horizon: int  # where wall meets ground, per mille of the crop's height


def draw_light(rng: np.random.Generator, difficulty: int) -> tuple[int, int, int]:
    """Gains of red, green and blue in 1/256: brightness times colour cast.

    A camera has one and every tracklet has one: with the cameras' alone, all that a camera sees
    would share a tint, and the tint would be all that a histogram sees.
    """
    square = difficulty * difficulty  # small casts already change histograms
    cast, dark, bright = 26 * square // 10**6, 60 * square // 10**6, 30 * square // 10**6
    dim = between(rng, -dark, bright)
    red, green, blue = (256 + dim + between(rng, -cast, cast) for _ in range(3))
    return red, green, blue


def draw_camera(rng: np.random.Generator, difficulty: int) -> Camera:
    """Decides what a camera is like; difficulty 0..1000 scales all differences of cameras."""
    return Camera(
        gains=draw_light(rng, difficulty),
        offset=between(rng, -8 * difficulty // 1000, 14 * difficulty // 1000),
        heading=between(rng, 0, 255),
        figure=900 + between(rng, -40, 40) * difficulty // 1000,
        pitch=between(rng, 20, 90),
        light=between(rng, -50, 50),
        softness=1 if chance(rng, difficulty // 2) else 0,
        coarse=chance(rng, difficulty // 4),
        noise=2 + between(rng, 0, 16 * difficulty // 1000),
        horizon=500 + between(rng, -130, 130) * difficulty // 1000,
    )


# Sixteenths and powers of two only: exact in the single precision that Pillow filters in.
_SOFTEN = ImageFilter.Kernel((3, 3), (1, 2, 1, 2, 4, 2, 1, 2, 1), scale=16)
_SMEAR = ImageFilter.Kernel((5, 5), (0,) * 10 + (1, 4, 6, 4, 1) + (0,) * 10, scale=16)


def take_picture(
    canvas: Image.Image,
    camera: Camera,
    rng: np.random.Generator,
    *,
    shrink: int,
    smear: int,
    gains: tuple[int, int, int],
) -> Image.Image:
    """What the camera makes of the scene: reduced, blurred, tinted, with noise.

    Args:
        canvas: RGB, `shrink` times the size of the picture.
        camera: lens and light.
        rng: of this frame.
        shrink: canvas pixels per pixel.
        smear: rounds of horizontal motion blur.
        gains: of this tracklet's light, red, green, blue, 1/256.
    """
    image = canvas.reduce(shrink)
    if camera.coarse:
        width, height = image.size
        halved = np.asarray(image.reduce(2))
        image = Image.fromarray(halved.repeat(2, 0).repeat(2, 1)[:height, :width].copy())
    for _ in range(camera.softness + camera.coarse):
        image = image.filter(_SOFTEN)
    for _ in range(smear):
        image = image.filter(_SMEAR)
    level = np.array(camera.gains, np.int32) * gains >> 8
    pixels = (np.asarray(image) * level >> 8) + camera.offset
    noise = rng.integers(-camera.noise, camera.noise + 1, pixels.shape, dtype=np.int16)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
