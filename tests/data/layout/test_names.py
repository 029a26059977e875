"""The parser of image names against one regular expression, name by name."""

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stf_jax.data.layout.names import names_array, parse_names

NAME = re.compile(r"(-?[0-9]+)_([0-9]+)_([0-9]+)\.(png|jpe?g)", re.IGNORECASE | re.ASCII)


def plainly(name, camera_digits):
    """(person, camera, track, offset, width of the first, of the second) or None."""
    if isinstance(name, bytes):
        name = name.decode("latin-1")
    match = NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None or len(match[2]) < camera_digits:
        return None
    person, second, offset = match[1], match[2], match[3]
    if max(len(person.lstrip("-")), len(second) - camera_digits, len(offset)) > 18:
        return None
    numbers = int(person), int(second[:camera_digits]), int(second[camera_digits:] or 0)
    return (*numbers, int(offset), len(person), len(second))


digits = st.text("0123456789", min_size=1, max_size=20)
good = st.builds(
    "{}{}_{}_{}.{}".format,
    st.sampled_from(["", "-"]),
    digits,
    digits,
    digits,
    st.sampled_from(["png", "jpg", "jpeg", "PNG", "Jpg", "JPEG"]),
)
malformed = st.sampled_from(
    [
        "",
        "1_11_1.gif",
        "1_11_1png",
        "1_11.png",
        "1_11_1_1.png",
        "_11_1.png",
        "1__1.png",
        "+1_11_1.png",
        "1_-11_1.png",
        "1_11_-1.png",
        " 1_11_1.png",
        "1_11_1.png\n",
        "1_11_1.png\0",
        "1_11_1.png\n2_11_1.png",
        "a/1_11_1.png",
        "0001C1T0001F001.jpg",
        "00-1_1001_1.jpg",
        "\u0661_11_1.png",  # an Arabic digit one
        "\ud800_11_1.png",
        "1" * 300 + "_11_1.png",
        "1_11_" + "0" * 300 + "1.png",
    ]
)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(good | malformed | st.text(max_size=6) | good.map(str.encode), max_size=12),
    camera_digits=st.integers(1, 3),
)
@example(values=["-00001_1001_000000.png", b"7_1_2.JPG"], camera_digits=1)
@example(values=[None, 3, 1.5, ["1_11_1.png"], b"\xff", "1_11_1.png"], camera_digits=1)
def test_as_one_name_at_a_time(values, camera_digits):
    parsed = parse_names(names_array(values), camera_digits)
    for row, value in enumerate(values):
        expected = plainly(value, camera_digits)
        assert parsed.parsed[row] == (expected is not None), value
        if expected is not None:
            fields = (parsed.person_ids, parsed.cameras, parsed.tracks, parsed.offsets)
            assert (*(int(field[row]) for field in fields), *parsed.widths[row]) == expected
            text = value.decode() if isinstance(value, bytes) else value
            assert parsed.names[row].decode() == text


def test_a_name_does_not_depend_on_its_neighbours():
    rng = np.random.default_rng(0)
    values = [
        f"{rng.integers(-1, 2000):0{rng.integers(1, 6)}d}_{rng.integers(1, 7)}"
        f"{rng.integers(0, 500)}_{rng.integers(0, 900):04d}.png"
        for _ in range(1000)
    ]
    whole = parse_names(names_array(values))
    blocks = [parse_names(names_array(values[start : start + 7])) for start in range(0, 1000, 7)]
    for field in ("parsed", "person_ids", "cameras", "tracks", "offsets", "widths"):
        joined = np.concatenate([getattr(block, field) for block in blocks])
        np.testing.assert_array_equal(getattr(whole, field), joined)
    assert whole.parsed.all()


@pytest.mark.parametrize("value", ["1_11_1.png", b"1_11_1.png"])
def test_one_long_name_does_not_widen_the_others(value):
    array = names_array([value, "x" * 10**6])
    assert array.dtype.itemsize <= 255
    assert array[0] == b"1_11_1.png"
