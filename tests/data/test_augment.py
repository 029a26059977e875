"""Augmentations against slow, plain versions, pixel by pixel, with the same drawn parameters."""

import colorsys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stf_jax.config import AugmentConfig
from stf_jax.data import augment as module
from stf_jax.data.augment import augment, draw, normalise
from stf_jax.data.image_statistics import fill_colour

HEIGHT, WIDTH = 24, 8
MEAN = np.array([0.486, 0.459, 0.408]) * 255
STD = np.array([0.229, 0.224, 0.225]) * 255
RECIPE = AugmentConfig()
ALL_OFF = AugmentConfig(mirror=0.0, blur=0.0)
ALL_ON = AugmentConfig(
    mirror=0.5, blur=0.8, blur_kernels=(1, 3, 5), crop=0.6, crop_padding=0.25, hsv=0.7, erase=0.6
)


def some_images(count, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3))
    images[0] = 0
    images[1] = 255
    images[2, ..., 1:] = images[2, ..., :1]  # grey
    return images.astype(np.uint8)


def slow_jitter(frame, offsets):
    result = np.zeros_like(frame)
    for y, x in np.ndindex(frame.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*(frame[y, x] / 255))
        eight = np.array([round(h * 180) % 180, round(s * 255), round(v * 255)]) + offsets
        h, s, v = (min(max(n, 0), top) for n, top in zip(eight, (179, 255, 255), strict=True))
        result[y, x] = 255 * np.array(colorsys.hsv_to_rgb(h / 180, s / 255, v / 255))
    return result


def slow_shift(frame, by):
    pad = 30  # more than any shift
    padded = np.empty((frame.shape[0] + 2 * pad, frame.shape[1] + 2 * pad, 3))
    padded[:] = MEAN
    padded[pad : pad + frame.shape[0], pad : pad + frame.shape[1]] = frame
    top, left = pad - by[0], pad - by[1]
    return padded[top : top + frame.shape[0], left : left + frame.shape[1]]


def slow_blur(frame, size, sigma=0.8):
    reach = size // 2

    def bounce(i, length):
        return -i if i < 0 else 2 * (length - 1) - i if i >= length else i

    result = np.zeros_like(frame)
    for y, x in np.ndindex(frame.shape[:2]):
        total = 0.0
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                weight = np.exp(-(dy * dy + dx * dx) / (2 * sigma * sigma))
                neighbour = frame[bounce(y + dy, frame.shape[0]), bounce(x + dx, frame.shape[1])]
                result[y, x] += weight * neighbour
                total += weight
        result[y, x] /= total
    return result


def slow_erase(frame, box):
    result = frame.copy()
    top, left, height, width = box
    for y in range(top, top + height):
        for x in range(left, left + width):
            result[y, x] = MEAN
    return result


def slow_augment(images, draws):
    results = []
    for i, image in enumerate(images):
        frame = image.astype(np.float64)
        if draws.jitter[i]:
            frame = slow_jitter(frame, draws.jitter_offsets[i])
        frame = slow_shift(frame, draws.shift[i])
        if draws.mirror[i]:
            frame = np.fliplr(frame)
        frame = slow_blur(frame, draws.blur[i])
        frame = slow_erase(frame, draws.box[i])
        results.append((frame - MEAN) / STD)
    return np.stack(results)


def draws_of(key, count, options, height=HEIGHT, width=WIDTH) -> Any:
    drawing = jax.jit(lambda key: draw(key, jnp.arange(count), height, width, options))
    return jax.tree.map(np.asarray, drawing(key))


def augmented(key, images, options=RECIPE, dtype=jnp.float32) -> np.ndarray:
    changing = jax.jit(lambda key, images: augment(key, images, options, dtype=dtype))
    return np.asarray(changing(key, images))


def test_normalise_takes_the_mean_to_zero():
    images = np.zeros((1, 2, 2, 3), np.uint8)
    images[0, 0, 0] = 255
    found = normalise(images)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found[0, 0, 0], (1 - MEAN / 255) / (STD / 255), rtol=1e-6)
    np.testing.assert_allclose(
        found[0, 1, 1], [-0.486 / 0.229, -0.459 / 0.224, -0.408 / 0.225], 1e-6
    )
    assert np.abs(normalise(np.array(fill_colour(), np.uint8).reshape(1, 1, 1, 3))).max() < 0.01


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_normalise_takes_any_leading_axes(lead):
    images = np.random.default_rng(0).integers(0, 256, (*lead, 4, 5, 3), np.uint8)
    assert normalise(images, jnp.bfloat16).dtype == jnp.bfloat16
    np.testing.assert_allclose(normalise(images), (images - MEAN) / STD, rtol=1e-5, atol=1e-6)


def test_jitter_in_hsv():
    images = some_images(9)
    offsets = np.random.default_rng(1).integers(-60, 61, (9, 3))
    offsets[3] = 0
    found = jax.jit(module.jitter_hsv)(jnp.asarray(images, jnp.float32), jnp.asarray(offsets))
    expected = [slow_jitter(f.astype(float), o) for f, o in zip(images, offsets, strict=True)]
    # Where a value is between two whole numbers, rounding may go either way: few, small.
    close = np.abs(np.asarray(found) - np.stack(expected)) < 1e-2
    assert close.mean() > 0.995
    np.testing.assert_allclose(found, np.stack(expected), atol=10)
    np.testing.assert_allclose(found[3], images[3], atol=5)  # eight bits of hue lose a little
    assert (np.asarray(found[1]) <= 255).all()


def test_shift_is_padding_and_cropping():
    images = some_images(6)
    by = np.array([[0, 0], [3, 0], [-3, 0], [0, 5], [2, -7], [-24, 8]])
    found = jax.jit(module.shift)(jnp.asarray(images, jnp.float32), jnp.asarray(by))
    expected = [slow_shift(f.astype(float), b) for f, b in zip(images, by, strict=True)]
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-6)


@pytest.mark.parametrize("sigma", [0.8, 2.0])
def test_blur_with_kernels_of_each_frame(sigma):
    images = some_images(5)
    kernels = np.array([3, 3, 1, 5, 3])
    found = jax.jit(module.blur, static_argnums=(2, 3))(
        jnp.asarray(images, jnp.float32), jnp.asarray(kernels), sigma, 5
    )
    expected = [slow_blur(f.astype(float), k, sigma) for f, k in zip(images, kernels, strict=True)]
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-5, atol=1e-4)


def test_erase_fills_with_the_mean():
    images = some_images(4)
    box = np.array([[0, 0, 0, 0], [0, 0, 24, 8], [5, 2, 7, 3], [23, 7, 1, 1]])
    found = jax.jit(module.erase)(jnp.asarray(images, jnp.float32), jnp.asarray(box))
    expected = [slow_erase(f.astype(float), b) for f, b in zip(images, box, strict=True)]
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-6)


def test_all_together_as_the_slow_version():
    images, key = some_images(16), jax.random.key(4)
    draws = draws_of(key, 16, ALL_ON)
    found = augmented(key, images, ALL_ON)
    expected = slow_augment(images, draws)
    for switched in (draws.jitter, draws.mirror, draws.box[:, 2] > 0, draws.blur == 3):
        assert 0 < switched.sum() < 16  # both kinds are there
    difference = np.abs(found - expected)
    assert (difference < 1e-3).mean() > 0.99  # a rounded hue may be one off
    assert difference.max() < 0.2


def test_the_default_is_the_recipe():
    draws = draws_of(jax.random.key(0), 4000, RECIPE)
    assert abs(draws.mirror.mean() - 0.5) < 0.04
    assert set(draws.blur) == {1, 3}
    assert abs((draws.blur == 3).mean() - 0.05) < 0.015  # p = 0.1, half of the kernels blur
    assert not draws.jitter.any()
    assert not draws.shift.any()
    assert not draws.box.any()
    images, key = some_images(8), jax.random.key(1)
    draws = draws_of(key, 8, RECIPE)
    expected = slow_augment(images, draws)
    np.testing.assert_allclose(augmented(key, images), expected, rtol=1e-4, atol=1e-4)
    assert 0 < draws.mirror.sum() < 8


def test_everything_off_only_normalises():
    images = some_images(4)
    found = augmented(jax.random.key(0), images, ALL_OFF)
    np.testing.assert_array_equal(found, jax.jit(normalise)(images))


def test_draws_have_their_ranges():
    options = AugmentConfig(crop=0.5, crop_padding=0.25, hsv=0.3, hsv_hue=4, erase=0.7)
    draws = draws_of(jax.random.key(0), 4000, options, height=96, width=32)
    assert abs(draws.jitter.mean() - 0.3) < 0.04
    for column, limit in enumerate((4, 30, 30)):
        offsets = draws.jitter_offsets[:, column]
        assert set(offsets) == set(range(-limit, limit + 1))
    moved = draws.shift.any(axis=1)
    assert abs(moved.mean() - 0.5) < 0.04
    assert draws.shift.min(axis=0).tolist() == [-24, -8]
    assert draws.shift.max(axis=0).tolist() == [24, 8]
    top, left, height, width = draws.box[draws.box[:, 2] > 0].T
    assert abs(len(top) / 4000 - 0.7) < 0.04
    assert (top.min(), left.min()) == (0, 0)
    assert ((top + height).max(), (left + width).max()) == (96, 32)
    area, aspect = height * width / (96 * 32), height / width
    assert 0.01 < area.min() < 0.03
    assert 0.38 < area.max() < 0.42
    assert abs(area.mean() - 0.21) < 0.01  # uniform
    large = width > 12  # where rounding to pixels matters little
    assert 1.3 < aspect[large].min() < 1.6
    assert 3.7 < aspect[width > 5].max() < 4.6


def test_the_erased_rectangle_is_cut_to_the_frame():
    options = AugmentConfig(erase=1.0, erase_area=(0.9, 1.0))
    draws = draws_of(jax.random.key(0), 300, options, 16, 64)
    top, left, height, width = draws.box.T
    assert (height == 16).all()
    assert (top == 0).all()
    assert (left + width <= 64).all()


def test_a_frame_depends_on_its_place_and_the_key_only():
    images = some_images(12)
    few = augmented(jax.random.key(3), images[:5], ALL_ON)
    many = augmented(jax.random.key(3), images, ALL_ON)
    np.testing.assert_allclose(few, many[:5], rtol=1e-6, atol=1e-6)
    other = draws_of(jax.random.key(4), 12, ALL_ON)
    draws = draws_of(jax.random.key(3), 12, ALL_ON)
    assert (draws.mirror != other.mirror).any()
    assert len({tuple(offsets) for offsets in draws.jitter_offsets}) == 12


def test_one_more_augmentation_leaves_the_others_as_they_were():
    key = jax.random.key(0)
    plain = draws_of(key, 50, RECIPE)
    more = draws_of(key, 50, AugmentConfig(erase=0.9, crop=0.5))
    assert (plain.mirror == more.mirror).all()
    assert (plain.blur == more.blur).all()


def test_jit_pmap_and_bfloat16():
    images, key = some_images(6), jax.random.key(0)
    plain = augmented(key, images, ALL_ON)
    half = augmented(key, images, ALL_ON, jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    close = np.abs(half.astype(np.float32) - plain) < 0.02
    assert close.mean() > 0.99
    mapped = jax.pmap(lambda key, images: augment(key, images, ALL_ON), in_axes=(None, 0))
    shares = np.asarray(mapped(key, images.reshape(2, 3, HEIGHT, WIDTH, 3)))
    np.testing.assert_allclose(shares[0], plain[:3], rtol=1e-5, atol=1e-5)
