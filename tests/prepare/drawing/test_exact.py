import math

import numpy as np
import pytest

from stf_jax.prepare.drawing.exact import (
    ARCSINE,
    TURN,
    UNIT,
    between,
    chance,
    cosine,
    generator,
    hypotenuse,
    sine,
)


@pytest.mark.parametrize("angle", [*range(-TURN, 2 * TURN, 5), 64, -64, 128])
def test_sine_and_cosine_are_close_to_the_real_ones(angle):
    turn = 2 * math.pi * angle / TURN
    assert sine(angle) / UNIT == pytest.approx(math.sin(turn), abs=0.003)
    assert cosine(angle) / UNIT == pytest.approx(math.cos(turn), abs=0.003)


def test_arcsine_inverts_the_sine():
    assert len(ARCSINE) == 513
    for angle in range(-58, 59):  # beyond, neighbouring angles share a sine in 1/256
        assert abs(ARCSINE[256 + sine(angle) * 256 // UNIT] - angle) <= 1
    assert (np.diff(ARCSINE) >= 0).all()
    assert (ARCSINE[0], ARCSINE[256], ARCSINE[512]) == (-64, 0, 64)


@pytest.mark.parametrize(("a", "b", "c"), [(3, 4, 5), (-5, 12, 13), (0, 0, 0), (1, 1, 1)])
def test_hypotenuse_is_the_floor(a, b, c):
    assert hypotenuse(a, b) == c


def test_generators_depend_on_every_part_of_their_key():
    keys = [(0, 1, 2), (1, 1, 2), (0, 2, 1), (0, 1), (0, 1, 2, 0)]
    draws = {tuple(generator(*key).integers(1 << 30, size=4)) for key in keys}
    assert len(draws) == len(keys)


def test_random_numbers_are_the_same_with_every_version_of_numpy():
    assert generator(7, 1, 2, 3).integers(0, 1000, 6).tolist() == [71, 545, 745, 514, 123, 934]


def test_between_includes_both_ends_and_chance_has_its_odds():
    rng = generator(0, 0)
    assert {between(rng, 3, 5) for _ in range(100)} == {3, 4, 5}
    assert between(rng, 5, 2) == 5
    hits = sum(chance(rng, 300) for _ in range(4000)) / 4000
    assert hits == pytest.approx(0.3, abs=0.03)
    assert not any(chance(rng, 0) for _ in range(50))
    assert all(chance(rng, 1000) for _ in range(50))
