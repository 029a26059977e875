from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from stf_jax.prepare.drawing.appearance import PATTERNS, draw_appearance
from stf_jax.prepare.drawing.cloth import make_wardrobe
from stf_jax.prepare.drawing.figures import Stance, draw_person

INK = (255, 0, 255)  # nothing else here is magenta
GREY = (150, 150, 150)
STANCE = Stance(
    foot_x=96,
    foot_y=370,
    tall=340,
    wide=340,
    heading=0,
    phase=0,
    standing=True,
    pitch=0,
    light=0,
)


def plain_person():
    person = draw_appearance(0, 0, 0, 0)
    outfit = replace(
        person.outfit,
        top=(40, 90, 40),
        second=(40, 90, 40),
        legs=(30, 30, 60),
        accent=INK,
        legwear="trousers",
    )
    return replace(
        person,
        outfit=outfit,
        pattern="plain",
        jacket=False,
        front_logo="none",
        back_logo="none",
        bag="none",
        side_stripe=False,
        cuffs=False,
        hat="none",
        haircut="short",
        height=1000,
        girth=1000,
    )


def drawn(person, **changes):
    canvas = Image.new("RGB", (192, 384), GREY)
    draw_person(canvas, person, make_wardrobe(person), replace(STANCE, **changes))
    return np.asarray(canvas).astype(int)


def ink_pixels(person, heading):
    pixels = drawn(person, heading=heading)
    return int(
        ((pixels[..., 0] > pixels[..., 1] + 60) & (pixels[..., 2] > pixels[..., 1] + 60)).sum()
    )


def extent(pixels):
    rows, columns = np.nonzero((pixels != GREY).any(axis=-1))
    return rows.min(), rows.max(), columns.min(), columns.max()


@pytest.mark.parametrize(
    ("details", "seen", "unseen"),
    [
        ({"front_logo": "disc", "logo_on_side": 0}, 0, 128),
        ({"back_logo": "disc"}, 128, 0),
        ({"jacket": True}, 0, 128),
    ],
)
def test_details_are_seen_from_their_side_only(details, seen, unseen):
    person = replace(plain_person(), **details)
    assert ink_pixels(person, seen) > 300
    assert ink_pixels(person, unseen) == 0


def test_backpack_shows_its_body_from_behind_and_only_straps_from_the_front():
    person = replace(plain_person(), bag="backpack")
    assert ink_pixels(person, 128) > 4 * ink_pixels(person, 0) > 0
    # From the sides it sticks out at the back.
    right, left = extent(drawn(person, heading=64)), extent(drawn(person, heading=192))
    without = extent(drawn(plain_person(), heading=64))
    assert right[2] < without[2]
    assert right[3] == without[3]
    assert left[3] - 96 == pytest.approx(96 - right[2], abs=3)


def test_side_stripe_is_seen_from_the_side():
    person = replace(plain_person(), side_stripe=True)
    assert ink_pixels(person, 64) > 200
    assert ink_pixels(person, 192) > 200


def test_a_person_stands_on_the_ground_and_has_the_asked_height():
    top, bottom, left, right = extent(drawn(plain_person()))
    assert bottom == pytest.approx(370, abs=6)
    assert bottom - top == pytest.approx(340, abs=12)
    assert (left + right) / 2 == pytest.approx(96, abs=3)
    slim = extent(drawn(plain_person(), wide=170))
    assert 2 * (slim[3] - slim[2]) == pytest.approx(right - left, rel=0.05)
    assert slim[:2] == pytest.approx((top, bottom), abs=8)


def test_feet_stay_on_the_ground_in_every_phase_of_the_gait():
    bottoms = {extent(drawn(plain_person(), phase=p, standing=False))[1] for p in range(0, 256, 8)}
    assert max(bottoms) - min(bottoms) <= 10


def test_legs_swing_in_the_direction_of_walking():
    spread = [
        (lambda e: e[3] - e[2])(extent(drawn(plain_person(), heading=h, phase=64, standing=False)))
        for h in (0, 64)
    ]
    assert spread[1] > 1.3 * spread[0]


def test_a_person_outside_the_picture_leaves_it_alone():
    assert (drawn(plain_person(), foot_x=-400) == GREY).all()
    assert (drawn(plain_person(), foot_y=-40) == GREY).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_look_different(pattern):
    person = plain_person()
    outfit = replace(person.outfit, second=(230, 200, 60))
    tops = {
        name: make_wardrobe(replace(person, outfit=outfit, pattern=name, cycles=3)).top
        for name in PATTERNS
    }
    for other in PATTERNS:
        if other != pattern:
            differs = (tops[pattern] != tops[other]).any(axis=-1).mean()
            assert differs > 0.1, other


def test_most_patterns_have_half_of_each_colour():
    person = plain_person()
    outfit = replace(person.outfit, second=(230, 200, 60))
    for pattern in ("hoops", "pinstripes", "checks", "diagonal", "zigzag", "diamonds", "halves"):
        top = make_wardrobe(replace(person, outfit=outfit, pattern=pattern, cycles=4)).top
        share = (top[:, 64:192, 0] == 230).mean()  # the back: no neckline
        assert share == pytest.approx(0.5, abs=0.06), pattern
