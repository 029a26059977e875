import numpy as np
import pytest
from colour_histogram import (
    colour_histograms,
    image_histogram,
    rgb_to_lab,
)
from PIL import Image

from stf_jax.data.layout.partitions import load_layout
from stf_jax.errors import UserError
from stf_jax.prepare.layout import image_name, write_partitions


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        # Bruce Lindbloom's calculator, sRGB, D65.
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((0.5, 0.5, 0.5), (53.39, 0, 0)),
    ],
)
def test_lab_of_known_colours(rgb, lab):
    np.testing.assert_allclose(rgb_to_lab(np.array(rgb, float)), lab, atol=0.02)


def slow_histogram(image, stripes, bins):
    height, width, _ = image.shape
    result = np.zeros((stripes, *bins))
    for row in range(height):
        for column in range(width):
            levels = (image[row, column] // 4 + 0.5) / 64
            lightness, a, b = rgb_to_lab(levels)
            place = (
                min(int(lightness / 100 * bins[0]), bins[0] - 1),
                min(max(int((a + 60) / 120 * bins[1]), 0), bins[1] - 1),
                min(max(int((b + 60) / 120 * bins[2]), 0), bins[2] - 1),
            )
            result[row * stripes // height][place] += 1
    flat = result.reshape(stripes, -1)
    return flat / flat.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("shape", [(12, 5), (13, 4), (6, 3)])
def test_histogram_equals_the_slow_one(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    fast = image_histogram(image, stripes=6, bins=(3, 4, 5))
    np.testing.assert_allclose(fast, slow_histogram(image, 6, (3, 4, 5)), atol=1e-12)


def test_pixels_may_move_within_a_stripe_and_not_between_stripes():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (12, 6, 3), dtype=np.uint8)
    moved = image.copy()
    moved[:2] = rng.permutation(image[:2].reshape(-1, 3)).reshape(2, 6, 3)
    np.testing.assert_array_equal(image_histogram(image), image_histogram(moved))
    assert not np.array_equal(image_histogram(image), image_histogram(image[::-1]))


def test_an_image_lower_than_its_stripes_is_refused():
    with pytest.raises(ValueError, match="5 rows"):
        image_histogram(np.zeros((5, 4, 3), np.uint8))


@pytest.fixture
def layout(tmp_path):
    rng = np.random.default_rng(2)
    (tmp_path / "images").mkdir()
    names, marks = [], []
    for person, camera, length in ((1, 1, 3), (1, 2, 1), (2, 1, 2)):
        for offset in range(length):
            name = image_name(person, camera, 1, offset)
            pixels = rng.integers(0, 256, (12, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name)
            names.append(name)
            marks.append(0 if camera == 1 else 1)
    write_partitions(tmp_path, trainval=[], test=names, test_marks=marks)
    return tmp_path


def test_features_are_the_roots_of_mean_histograms(layout):
    table = load_layout(layout).test
    assert table is not None
    features = colour_histograms(table, stripes=3, bins=(3, 4, 5))
    assert features.shape == (3, 3 * 60)
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)
    images = sorted((layout / "images").iterdir())
    for row, own in enumerate((images[:3], images[3:4], images[4:])):
        mean = np.mean(
            [slow_histogram(np.asarray(Image.open(path)), 3, (3, 4, 5)) for path in own], axis=0
        )
        np.testing.assert_allclose(features[row] ** 2 * 3, mean.ravel(), atol=1e-6)


def test_tracklets_can_be_chosen_in_any_order(layout):
    table = load_layout(layout).test
    assert table is not None
    every = colour_histograms(table)
    np.testing.assert_array_equal(colour_histograms(table, [2, 0]), every[[2, 0]])
    assert colour_histograms(table, []).shape == (0, every.shape[1])


def test_a_corrupt_image_is_named(layout):
    table = load_layout(layout).test
    assert table is not None
    path = next((layout / "images").iterdir())
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=path.name):
        colour_histograms(table)
