import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stf_jax.prepare.drawing.polygons import fill_polygon, polygon_mask, stroke

CORNERS = st.lists(st.tuples(st.integers(-20, 40), st.integers(-20, 40)), min_size=3, max_size=7)


def slow_mask(points, left, top, width, height):
    """Ray casting, a pixel at a time, in fractions without rounding."""
    mask = np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            x, y = left + column, top + row
            crossings = 0
            for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
                if min(y0, y1) <= y < max(y0, y1):
                    # x >= floor(place) where the exact place is below x + 1.
                    scale = abs(y1 - y0)
                    place = x0 * scale + (y - y0) * (x1 - x0) * (1 if y1 > y0 else -1)
                    crossings += place < (x + 1) * scale
            mask[row, column] = crossings % 2
    return mask


@settings(max_examples=40, deadline=None)
@given(CORNERS)
def test_mask_equals_ray_casting(points):
    np.testing.assert_array_equal(
        polygon_mask(points, -8, -5, 24, 22), slow_mask(points, -8, -5, 24, 22)
    )


@given(CORNERS)
def test_a_window_is_a_part_of_the_whole(points):
    whole = polygon_mask(points, -25, -25, 70, 70)
    np.testing.assert_array_equal(polygon_mask(points, 0, 3, 11, 17), whole[28:45, 25:36])


@given(CORNERS.filter(lambda points: len(points) == 4), st.integers(0, 3))
def test_neighbours_neither_overlap_nor_leave_a_gap(points, first):
    a, b, c, d = points[first:] + points[:first]
    halves = polygon_mask((a, b, c), -25, -25, 70, 70) ^ polygon_mask((a, c, d), -25, -25, 70, 70)
    np.testing.assert_array_equal(polygon_mask((a, b, c, d), -25, -25, 70, 70), halves)


def test_the_area_is_right():
    points = [(3, 4), (90, 20), (70, 95), (10, 60)]
    shoelace = abs(
        sum(
            x0 * y1 - x1 * y0
            for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True)
        )
        / 2
    )
    assert polygon_mask(points, 0, 0, 100, 100).sum() == pytest.approx(shoelace, rel=0.02)


@pytest.mark.parametrize("shift", [(0, 0), (-30, 10), (40, -35), (500, 0), (0, -500)])
def test_filling_is_cut_at_the_border(shift):
    points = [(x + shift[0], y + shift[1]) for x, y in ((5, 5), (45, 10), (30, 40))]
    image = Image.new("RGB", (50, 40))
    fill_polygon(image, points, (9, 8, 7))
    filled = (np.asarray(image) == (9, 8, 7)).all(axis=-1)
    np.testing.assert_array_equal(filled, polygon_mask(points, 0, 0, 50, 40))


@pytest.mark.parametrize("end", [(80, 20), (20, 80), (75, 60), (40, 75)])
def test_a_stroke_has_its_length_and_width(end):
    image = Image.new("L", (100, 100))
    stroke(image, ((20, 20), end), 7, (255,))
    length = math.dist((20, 20), end)
    assert (np.asarray(image) > 0).sum() == pytest.approx(7 * length, rel=0.15)
