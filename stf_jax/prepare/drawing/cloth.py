"""Cloth, heads and bags as unrolled surfaces: column = angle round the body, row = height.

Column 0 is the middle of the front, column 64 the person's left side, column 128 the middle of
the back. A figure shows the half that faces the camera, so that what is drawn here on the front
alone is seen only while the person faces the camera.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from stf_jax.prepare.drawing.appearance import Appearance, Colour, contrast
from stf_jax.prepare.drawing.exact import TURN, UNIT, cosine, sine
from stf_jax.prepare.drawing.polygons import fill_polygon, stroke

ROWS = 160


@dataclass(frozen=True)
class Wardrobe:
    """Surfaces of one person, uint8 [rows, 256, 4], RGBA with alpha 0 or 255."""

    top: np.ndarray
    skirt: np.ndarray
    head: np.ndarray
    long_hair: np.ndarray
    backpack: np.ndarray


def darker(colour: Colour, percent: int) -> Colour:
    """The colour at `percent` of its brightness."""
    red, green, blue = (min(255, value * percent // 100) for value in colour)
    return red, green, blue


def legible(colour: Colour, ground: Colour) -> Colour:
    """The colour, or black or white where it would not stand out from the ground."""
    if contrast(colour, ground) > 160:
        return colour
    return (20, 20, 24) if sum(ground) > 360 else (236, 234, 228)


def draw_pattern(
    image: Image.Image, pattern: str, first: Colour, second: Colour, cycles: int
) -> None:
    """Covers a surface of 256 x `ROWS` with a pattern of two colours.

    Most patterns give both colours about half of the area, so that a histogram cannot
    distinguish them. `cycles` is the number of repeats over the height; twice as many go round.
    """
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, TURN - 1, ROWS - 1), fill=first)
    around = 2 * cycles
    across = [k * TURN // (2 * around) for k in range(2 * around + 1)]
    down = [k * ROWS // (2 * cycles) for k in range(2 * cycles + 1)]
    if pattern == "hoops":
        for k in range(0, 2 * cycles, 2):
            draw.rectangle((0, down[k], TURN, down[k + 1] - 1), fill=second)
    elif pattern == "pinstripes":
        for k in range(0, 2 * around, 2):
            draw.rectangle((across[k], 0, across[k + 1] - 1, ROWS), fill=second)
    elif pattern == "checks":
        for k in range(2 * around):
            for j in range(k % 2, 2 * cycles, 2):
                box = (across[k], down[j], across[k + 1] - 1, down[j + 1] - 1)
                draw.rectangle(box, fill=second)
    elif pattern == "dots":
        for k in range(0, 2 * around, 2):
            for j in range(0, 2 * cycles, 2):
                x, y = across[k], down[j] + ROWS // (4 * cycles)
                wide, high = 44 * TURN // (100 * around), 44 * ROWS // (100 * cycles)
                draw.ellipse((x - wide, y - high, x + wide, y + high), fill=second)
                if k == 0:
                    draw.ellipse((TURN - wide, y - high, TURN + wide, y + high), fill=second)
    elif pattern == "diagonal":
        step = TURN // around
        for k in range(-ROWS // step - 2, around + 1):
            x = k * TURN // around
            end = x + ROWS
            corners = ((x, 0), (x + step // 2, 0), (end + step // 2, ROWS), (end, ROWS))
            fill_polygon(image, corners, second)
    elif pattern == "zigzag":
        tooth = ROWS // (2 * cycles)
        for j in range(-1, cycles + 1):
            y = j * ROWS // cycles
            upper = [(k * TURN // (4 * cycles), y + (k % 2) * tooth) for k in range(4 * cycles + 1)]
            lower = [(x, edge + tooth) for x, edge in reversed(upper)]
            fill_polygon(image, upper + lower, second)
    elif pattern == "diamonds":
        for k in range(0, 2 * around + 1, 2):
            for j in range(1, 2 * cycles, 2):
                x, y = across[k], down[j]
                wide, high = TURN // (2 * around), ROWS // (2 * cycles)
                corners = ((x - wide, y), (x, y - high), (x + wide, y), (x, y + high))
                fill_polygon(image, corners, second)
    elif pattern == "halves":
        draw.rectangle((0, 0, TURN // 2 - 1, ROWS), fill=second)
    elif pattern == "front_back":
        draw.rectangle((64, 0, 191, ROWS), fill=second)
    elif pattern == "band":
        draw.rectangle((0, 40, TURN, 85), fill=second)
    elif pattern == "tartan":
        for k in range(around):
            draw.rectangle((across[2 * k], 0, across[2 * k] + 6, ROWS), fill=second)
        for j in range(cycles):
            draw.rectangle((0, down[2 * j], TURN, down[2 * j] + 8), fill=second)


def _draw_logo(
    image: Image.Image, logo: str, x: int, y: int, size: int, ink: Colour, patch: Colour
) -> None:
    draw = ImageDraw.Draw(image)
    box = (x - size, y - size, x + size, y + size)
    draw.rectangle((x - size - 5, y - size - 5, x + size + 5, y + size + 5), fill=patch)
    if logo == "disc":
        draw.ellipse(box, fill=ink)
    elif logo == "square":
        draw.rectangle(box, fill=ink)
    elif logo == "triangle":
        fill_polygon(image, ((x - size, y + size), (x, y - size), (x + size, y + size)), ink)
    elif logo == "cross":
        third = size // 3
        draw.rectangle((x - third, y - size, x + third, y + size), fill=ink)
        draw.rectangle((x - size, y - third, x + size, y + third), fill=ink)
    elif logo == "ring":
        draw.ellipse(box, fill=ink)
        draw.ellipse((x - size // 2, y - size // 2, x + size // 2, y + size // 2), fill=patch)
    elif logo == "bars":
        for edge in range(y - size, y + size, size // 2):
            draw.rectangle((x - size, edge, x + size, edge + size // 4), fill=ink)
    elif logo == "star":
        points = []
        for k in range(10):
            reach = size if k % 2 == 0 else size * 4 // 10
            angle = k * TURN // 10
            points.append((x + reach * sine(angle) // UNIT, y - reach * cosine(angle) // UNIT))
        fill_polygon(image, points, ink)


def _top(person: Appearance) -> np.ndarray:
    outfit = person.outfit
    first, second = outfit.top, outfit.second
    if person.swap:
        first, second = second, first
    image = Image.new("RGB", (TURN, ROWS))
    draw_pattern(image, person.pattern, first, second, person.cycles)
    if person.jacket:  # the shirt between the open sides
        shirt = legible(outfit.accent, first)
        for x in (0, TURN):
            corners = ((x - 18, 0), (x + 18, 0), (x + 10, ROWS), (x - 10, ROWS))
            fill_polygon(image, corners, shirt)
            stroke(image, (corners[0], corners[3]), 3, darker(first, 55))
            stroke(image, (corners[1], corners[2]), 3, darker(first, 55))
    patch = first
    if person.back_logo != "none":
        _draw_logo(image, person.back_logo, 128, 58, 26, legible(outfit.accent, patch), patch)
    if person.front_logo != "none":  # drawn at column 128, then turned to the front
        image = Image.fromarray(np.roll(np.asarray(image), 128, axis=1))
        size, x = (26, 128) if person.logo_on_side == 0 else (15, 128 + 24 * person.logo_on_side)
        _draw_logo(image, person.front_logo, x, 54, size, legible(outfit.accent, patch), patch)
        image = Image.fromarray(np.roll(np.asarray(image), -128, axis=1))
    draw = ImageDraw.Draw(image)
    if person.bag == "backpack":  # straps, seen from the front
        for x in (26, TURN - 26):
            draw.rectangle((x - 4, 0, x + 4, 90), fill=darker(outfit.accent, 80))
    elif person.bag == "satchel":  # one strap across, front and back
        strap = darker(outfit.accent, 70)
        for start, end in ((-44, 50), (TURN - 44, TURN + 50), (TURN // 2 + 44, TURN // 2 - 50)):
            if person.bag_side < 0:
                start, end = -start, -end
            for turn in (0, TURN):
                stroke(image, ((start + turn, 0), (end + turn, ROWS - 25)), 7, strap)
    neck = darker(outfit.skin, 92)
    for x in (0, TURN):  # neckline
        draw.ellipse((x - 20, -14, x + 20, 12), fill=neck)
    return np.asarray(image.convert("RGBA"))


def _skirt(person: Appearance) -> np.ndarray:
    outfit = person.outfit
    image = Image.new("RGB", (TURN, ROWS))
    second = legible(outfit.accent, outfit.legs)
    draw_pattern(image, person.skirt_pattern, outfit.legs, second, max(2, person.cycles - 1))
    return np.asarray(image.convert("RGBA"))


def _head(person: Appearance) -> np.ndarray:
    outfit = person.outfit
    image = Image.new("RGB", (TURN, 64), outfit.skin)
    draw = ImageDraw.Draw(image)
    # Drawn with the face at column 128, turned to column 0 at the end.
    draw.rectangle((94, 24, 108, 27), fill=(40, 32, 30))  # eyes
    draw.rectangle((148, 24, 162, 27), fill=(40, 32, 30))
    draw.rectangle((92, 18, 110, 20), fill=darker(outfit.hair, 80))  # brows
    draw.rectangle((146, 18, 164, 20), fill=darker(outfit.hair, 80))
    draw.rectangle((124, 27, 132, 38), fill=darker(outfit.skin, 84))  # nose
    draw.rectangle((114, 45, 142, 48), fill=(150, 70, 66))  # mouth
    if person.glasses:
        for x in (90, 140):
            draw.rectangle((x, 21, x + 26, 32), outline=(20, 20, 22), width=3)
        draw.rectangle((60, 23, 196, 25), fill=(20, 20, 22))
    if person.beard:
        draw.rectangle((70, 40, 186, 63), fill=darker(outfit.hair, 90))
        draw.rectangle((114, 45, 142, 48), fill=(150, 70, 66))
    if person.haircut != "bald":
        draw.rectangle((0, 0, TURN, 13), fill=outfit.hair)
        side = ((0, 0), (88, 0), (72, 16), (66, 46), (60, 50), (0, 50))
        fill_polygon(image, side, outfit.hair)
        fill_polygon(image, [(TURN - x, y) for x, y in side], outfit.hair)
        draw.rectangle((66, 26, 76, 36), fill=darker(outfit.skin, 88))  # ears
        draw.rectangle((180, 26, 190, 36), fill=darker(outfit.skin, 88))
    hat = outfit.second if person.hat_second else outfit.accent
    if person.hat == "cap":
        draw.rectangle((0, 0, TURN, 17), fill=hat)
        draw.rectangle((0, 15, TURN, 17), fill=darker(hat, 70))
    elif person.hat == "beanie":
        draw.rectangle((0, 0, TURN, 20), fill=hat)
        draw.rectangle((0, 14, TURN, 20), fill=darker(hat, 75))
    elif person.hat == "hood":
        draw.rectangle((0, 0, TURN, 9), fill=outfit.top)
        draw.rectangle((0, 0, 80, 63), fill=outfit.top)
        draw.rectangle((176, 0, TURN, 63), fill=outfit.top)
    return np.roll(np.asarray(image.convert("RGBA")), -128, axis=1)


def _long_hair(person: Appearance) -> np.ndarray:
    image = Image.new("RGBA", (TURN, 64), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    colour = person.outfit.top if person.hat == "hood" else person.outfit.hair
    draw.rectangle((58, 0, 198, 63), fill=(*colour, 255))
    for x in range(62, 198, 14):  # strands
        draw.rectangle((x - 1, 0, x + 1, 63), fill=(*darker(colour, 80), 255))
    return np.asarray(image)


def _backpack(person: Appearance) -> np.ndarray:
    colour = person.outfit.accent
    image = Image.new("RGB", (TURN, 64), colour)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, TURN, 3), fill=darker(colour, 60))
    draw.rectangle((92, 28, 164, 58), fill=darker(colour, 78), outline=darker(colour, 50), width=3)
    draw.rectangle((92, 40, 164, 42), fill=darker(colour, 50))
    if person.cuffs:  # a reflecting strip, on some
        draw.rectangle((80, 16, 176, 21), fill=(232, 232, 220))
    return np.asarray(image.convert("RGBA"))


def make_wardrobe(person: Appearance) -> Wardrobe:
    """Draws the surfaces of one person."""
    return Wardrobe(
        top=_top(person),
        skirt=_skirt(person),
        head=_head(person),
        long_hair=_long_hair(person),
        backpack=_backpack(person),
    )
