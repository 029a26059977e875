"""Chance and trigonometry that come out the same, to the bit, on every machine.

Floating-point sines differ between processors and mathematical libraries by a last bit, and one
such bit can move a pixel. The drawing therefore uses whole numbers only: angles are 1/256 turns,
sines come from a table made of integer divisions, and every random number is keyed by what it
decides, so that no frame depends on another frame, on the order of work or on the number of
processes.
"""

import math

import numpy as np

TURN = 256
"""A full turn; 64 is a right angle."""

UNIT = 1024
"""The value of `sine(64)`."""


# Bhaskara's rational approximation, off by at most 0.0017: exact in integers.
_PAIRS = [k * (TURN // 2 - k) for k in range(TURN // 2)]
_HALF_SINE = [16 * UNIT * pair // (5 * (TURN // 2) ** 2 - 4 * pair) for pair in _PAIRS]
_SINE = (*_HALF_SINE, *(-value for value in _HALF_SINE))


def sine(angle: int) -> int:
    """`UNIT` times the sine of an angle in 1/256 turns (any integer); within 0.2 % of `UNIT`."""
    return _SINE[angle % TURN]


def cosine(angle: int) -> int:
    """`UNIT` times the cosine of an angle in 1/256 turns (any integer)."""
    return _SINE[(angle + TURN // 4) % TURN]


def _arcsine_table() -> np.ndarray:
    angles = range(-TURN // 4, TURN // 4 + 1)
    nearest = [min(angles, key=lambda a: abs(sine(a) * 256 - s * UNIT)) for s in range(-256, 257)]
    return np.array(nearest, dtype=np.int32)


ARCSINE = _arcsine_table()
"""int32 [513]: the angle in -64..64 whose sine is nearest to (index - 256) / 256."""


def hypotenuse(a: int, b: int) -> int:
    """The floor of the square root of a² + b², in integers."""
    return math.isqrt(a * a + b * b)


def generator(seed: int, *key: int) -> np.random.Generator:
    """A random generator for one decision, independent of the generators of all other keys.

    Args:
        seed: the data set's seed, >= 0.
        key: what is decided (for example kind, identity, camera, track, frame), each >= 0.

    Only `integers` may be drawn from it: real-valued draws go through library logarithms.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def between(rng: np.random.Generator, low: int, high: int) -> int:
    """A uniform random integer in low..high, both ends included; low where high < low."""
    return int(rng.integers(low, max(low, high) + 1))


def chance(rng: np.random.Generator, per_mille: int) -> bool:
    """True with a probability of per_mille / 1000."""
    return int(rng.integers(1000)) < per_mille
