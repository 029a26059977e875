"""The drawn street: houses and ground behind people, things that stand before them."""

import numpy as np
from PIL import Image, ImageDraw

from stf_jax.prepare.drawing.appearance import Colour, colours
from stf_jax.prepare.drawing.cloth import darker
from stf_jax.prepare.drawing.exact import between, chance
from stf_jax.prepare.drawing.polygons import fill_polygon, stroke

LENGTH = 10
"""Length of a street, in widths of a picture."""

OBSTACLES = ("pole", "bin", "bush", "car", "board")

_WALLS = colours("96928a 8e604e baac92 6c747a 587054 464c58 c4966e 788ca0")
_GROUNDS = colours("807e7a 606062 9e9482 5c744c 8c7060 707884")


def _mixed(first: Colour, second: Colour, per_mille: int) -> Colour:
    red, green, blue = (a + (b - a) * per_mille // 1000 for a, b in zip(first, second, strict=True))
    return red, green, blue


def _any_colour(rng: np.random.Generator) -> Colour:
    return between(rng, 20, 220), between(rng, 20, 220), between(rng, 20, 220)


def _stretches(rng: np.random.Generator, total: int, low: int, high: int) -> list[tuple[int, int]]:
    """Cuts a street into (first, last) columns, each low..high long but for the last one."""
    stretches, start = [], 0
    while start < total:
        end = min(total, start + between(rng, low, high))
        stretches.append((start, end - 1))
        start = end
    return stretches


def _house(
    rng: np.random.Generator, size: tuple[int, int], unit: int, wall: Colour, style: int
) -> Image.Image:
    """One front, of a house, a hedge or a fence; `unit` is the width of a picture."""
    width, height = size
    image = Image.new("RGB", size, wall)
    draw = ImageDraw.Draw(image)
    if style in (0, 1):  # panels or bricks
        course = max(6, unit // 3 if style == 0 else unit // 8)
        for row, y in enumerate(range(height % course - course, height, course)):
            draw.rectangle((0, y, width, y + 1), fill=darker(wall, 82))
            for x in range((row % 2) * course, width, 2 * course):
                draw.rectangle((x, y, x + 1, y + course), fill=darker(wall, 82))
    elif style == 2:  # a hedge
        for _ in range(130):
            x, y = between(rng, 0, width), between(rng, 0, height)
            reach = between(rng, unit // 20, unit // 7)
            leaf = darker((74, 112, 56), between(rng, 55, 125))
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=leaf)
        return image
    elif style == 3:  # a fence
        for x in range(0, width, max(4, unit // 8)):
            draw.rectangle((x, 0, x + unit // 20, height), fill=darker(wall, 70))
    for place in range(unit // 8, width - unit // 4, unit // 2):  # windows, doors, posters
        if chance(rng, 350):
            continue
        x = place + between(rng, 0, unit // 8)
        wide, high = between(rng, unit // 6, unit // 3), between(rng, unit // 4, 2 * unit // 3)
        top = max(0, height - high - between(rng, 0, unit // 3))
        pane, frame = _mixed(wall, _any_colour(rng), 450), darker(wall, 62)
        draw.rectangle((x, top, x + wide, top + high), fill=pane, outline=frame, width=4)
        draw.rectangle((x + wide // 2 - 1, top, x + wide // 2 + 1, top + high), fill=frame)
    return image


def _pavement(size: tuple[int, int], unit: int, ground: Colour) -> Image.Image:
    width, height = size
    image = Image.new("RGB", size, ground)
    draw = ImageDraw.Draw(image)
    joint = darker(ground, 88)
    for row in range(1, 6):  # rows closer together far away
        y = height * row * row // 25
        draw.rectangle((0, y, width, y + 1), fill=joint)
    for x in range(-unit, width + unit, max(4, unit // 3)):
        stroke(image, ((x, 0), (x + unit // 5, height)), 2, joint)
    draw.rectangle((0, 0, width, height // 25), fill=darker(ground, 76))
    return image


def _parked(rng: np.random.Generator, image: Image.Image, horizon: int, unit: int) -> None:
    """Trunks and cars far behind, in place."""
    draw = ImageDraw.Draw(image)
    bottom = horizon + unit // 15
    for _ in range(LENGTH):
        x = between(rng, 0, image.width)
        if chance(rng, 600):
            bark = darker((92, 74, 58), between(rng, 70, 120))
            draw.rectangle((x, 0, x + unit // 9, bottom), fill=bark)
            continue
        paint = _mixed((120, 122, 124), _any_colour(rng), 600)
        top = horizon - unit // 5
        draw.rectangle((x, top, x + unit, bottom), fill=paint)
        roof = ((x + unit // 6, top), (x + unit // 3, top - unit // 6))
        roof += ((x + unit * 3 // 4, top - unit // 6), (x + unit * 9 // 10, top))
        fill_polygon(image, roof, (60, 70, 80))
        for wheel in (x + unit // 4, x + unit * 3 // 4):
            size = unit // 16
            box = (wheel - size, bottom - size, wheel + size, bottom + size)
            draw.ellipse(box, fill=(24, 24, 26))


def _sunned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Sun and shade along the street, and coarse grain, so that no surface is quite flat."""
    width, height = image.size
    knots = rng.integers(180, 310, 4 * LENGTH + 1)
    place = np.arange(width, dtype=np.int64) * 4 * LENGTH
    left, rest = place // width, place % width
    level = (knots[left] * (width - rest) + knots[left + 1] * rest) // width
    pixels = np.asarray(image).astype(np.int64) * level[None, :, None] >> 8
    grain = rng.integers(-9, 10, (height // 3 + 1, width // 3 + 1, 1))
    pixels += grain.repeat(3, 0).repeat(3, 1)[:height, :width]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def draw_street(
    rng: np.random.Generator, horizon: int, width: int, height: int, colour: int
) -> Image.Image:
    """An empty street, RGB, `LENGTH * width` by `height` pixels.

    Args:
        rng: of the street.
        horizon: where walls meet the ground, pixels from above.
        width, height: of one picture.
        colour: 0 for grey houses and ground, 1000 for many colours; these fool histograms.
    """
    image = Image.new("RGB", (LENGTH * width, height))
    for first, last in _stretches(rng, image.width, width // 2, 3 * width // 2):
        wall = _mixed(_WALLS[0], _WALLS[between(rng, 0, len(_WALLS) - 1)], colour)
        size = (last - first + 1, horizon)
        image.paste(_house(rng, size, width, wall, between(rng, 0, 4)), (first, 0))
    for first, last in _stretches(rng, image.width, width // 2, 2 * width):
        ground = _mixed(_GROUNDS[0], _GROUNDS[between(rng, 0, len(_GROUNDS) - 1)], colour)
        size = (last - first + 1, height - horizon)
        image.paste(_pavement(size, width, ground), (first, horizon))
    _parked(rng, image, horizon, width)
    return _sunned(image, rng)


def draw_obstacle(canvas: Image.Image, kind: str, x: int, shade: int) -> None:
    """Draws a thing that stands between camera and person, in place.

    Args:
        canvas: RGB picture.
        kind: one of `OBSTACLES`.
        x: pixel of its middle.
        shade: 0..255, decides its colour.
    """
    width, height = canvas.size
    draw = ImageDraw.Draw(canvas)
    paint = ((96 + shade // 3, 60 + shade % 90, 50 + shade % 140), (66, 70, 76))[shade % 2]
    if kind == "pole":
        half = width // 9
        draw.rectangle((x - half, 0, x + half, height), fill=darker(paint, 70))
        draw.rectangle((x - half // 2, 0, x + half // 3, height), fill=paint)
    elif kind == "bin":
        half, top = width // 4, height * 56 // 100
        draw.rectangle((x - half, top, x + half, height), fill=paint)
        draw.rectangle((x - half, top, x + half, top + height // 24), fill=darker(paint, 60))
        draw.rectangle((x - half // 3, top, x, height), fill=darker(paint, 116))
    elif kind == "bush":
        for k in range(42):
            size = height * (5 + (k * 7 + shade) % 5) // 100
            left = x - width * 45 // 100 + (k * 37 + shade) % (width * 9 // 10)
            top = height * 50 // 100 + (k * 53 + 3 * shade) % (height // 2)
            leaf = darker((70, 112, 54), 62 + (k * 29) % 66)
            draw.ellipse((left - size, top - size, left + size, top + size), fill=leaf)
    elif kind == "car":
        top = height * 60 // 100
        draw.rectangle((x - width, top, x + width, height * 92 // 100), fill=paint)
        window = ((x - width * 7 // 10, top), (x - width // 2, height * 46 // 100))
        window += ((x + width // 2, height * 46 // 100), (x + width * 7 // 10, top))
        fill_polygon(canvas, window, darker(paint, 55))
        for wheel in (x - width // 2, x + width // 2):
            size = height // 11
            bottom = height * 92 // 100
            draw.ellipse(
                (wheel - size, bottom - size, wheel + size, bottom + size), fill=(22, 22, 24)
            )
    elif kind == "board":
        half = width * 36 // 100
        draw.rectangle((x - half, height * 12 // 100, x + half, height * 62 // 100), fill=paint)
        for row in range(18, 58, 8):
            y = row * height // 100
            draw.rectangle((x - half * 3 // 4, y, x + half // 2, y + height // 40), fill=(226,) * 3)
        for leg in (x - half, x + half - width // 24):
            draw.rectangle((leg, height // 2, leg + width // 24, height), fill=darker(paint, 60))
