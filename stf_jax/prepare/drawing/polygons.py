"""Polygons and strokes, filled in whole numbers.

Pillow's rectangles and ellipses are whole-number algorithms; its polygons, and its lines that are
wider than a pixel, are filled in single precision, whose rounding differs between its versions by
a pixel here and there.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool
from PIL import Image

from stf_jax.prepare.drawing.exact import hypotenuse

Point = tuple[int, int]


def polygon_mask(
    points: Sequence[Point], left: int, top: int, width: int, height: int
) -> Bool[np.ndarray, "h w"]:
    """Which pixels of a window lie in a polygon, by the even-odd rule.

    A pixel (x, y) is inside where an odd number of edges cross its row to the left of it or at
    it; an edge covers the rows from its upper end to just above its lower end, and crosses at the
    floor of the exact place. Polygons that share an edge neither overlap nor leave a gap.

    Args:
        points: corners in order, the last joined to the first.
        left, top, width, height: the window, in pixels.
    """
    inside = np.zeros((height, width), dtype=bool)
    columns = np.arange(left, left + width, dtype=np.int64)
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        first, last = max(y0, top), min(y1, top + height)
        if first < last:
            rows = np.arange(first, last, dtype=np.int64)
            crossing = x0 + (rows - y0) * (x1 - x0) // (y1 - y0)
            inside[first - top : last - top] ^= columns >= crossing[:, None]
    return inside


def fill_polygon(image: Image.Image, points: Sequence[Point], ink: tuple[int, ...]) -> None:
    """Fills a polygon (see `polygon_mask`), in place; whatever lies outside is cut off."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, top = max(0, min(xs)), max(0, min(ys))
    width, height = min(image.width, max(xs)) - left, min(image.height, max(ys)) - top
    if width <= 0 or height <= 0:
        return
    mask = polygon_mask(points, left, top, width, height)
    image.paste(ink, (left, top, left + width, top + height), Image.fromarray(mask))


def stroke(image: Image.Image, points: Sequence[Point], width: int, ink: tuple[int, ...]) -> None:
    """Draws straight pieces from point to point, `width` pixels wide, with blunt ends, in place."""
    for (x0, y0), (x1, y1) in pairwise(points):
        length = max(1, hypotenuse(x1 - x0, y1 - y0))
        # Across the stroke; halves are shared out so that thin strokes keep their width.
        nx, ny = -(y1 - y0) * width // length, (x1 - x0) * width // length
        ax, ay, bx, by = nx // 2, ny // 2, nx - nx // 2, ny - ny // 2
        quad = ((x0 + ax, y0 + ay), (x1 + ax, y1 + ay), (x1 - bx, y1 - by), (x0 - bx, y0 - by))
        fill_polygon(image, quad, ink)
