"""The CMC picture: written, of its size, with every curve drawn in its colour."""

import numpy as np
import pytest
from PIL import Image

from stf_jax.evaluation.pages.cmc_plot import plot_cmc


def test_two_curves_in_one_picture(tmp_path):
    path = tmp_path / "cmc.png"
    plot_cmc({"ours": np.linspace(0.6, 0.9, 50), "histogram $x$": [0.2, 0.4, 0.5]}, path, title="t")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert min(image.size) > 400
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert np.count_nonzero((pixels == colour).all(axis=1)) > 100


def test_a_curve_without_valid_queries_is_named_not_drawn(tmp_path):
    plot_cmc({"none": np.full(5, np.nan)}, tmp_path / "cmc.pdf")
    assert (tmp_path / "cmc.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("curves", [{}, {"a": []}, {"a": np.zeros((2, 2))}])
def test_nothing_to_draw(tmp_path, curves):
    with pytest.raises(ValueError, match=r"^curves: "):
        plot_cmc(curves, tmp_path / "cmc.png")
    assert not list(tmp_path.iterdir())
