"""Resizing, and colours under transparency."""

import numpy as np
import pytest
from picture_files import grains
from PIL import Image

from nst_manual.pictures.alpha import resize, spread
from nst_manual.pictures.reading import load_image, load_picture


def test_resizing_keeps_flat_colours_and_the_range(rng):
    flat = np.broadcast_to(np.array([255.0, 0.0, 100.25]), (9, 9, 3))
    np.testing.assert_allclose(resize(flat, 5, 4), np.broadcast_to([255.0, 0.0, 100.25], (5, 4, 3)), atol=1e-4)
    sharp = resize(rng.integers(0, 2, (9, 9, 3)) * 255.0, 17, 21)
    assert sharp.min() >= 0
    assert sharp.max() <= 255


def test_invisible_colours_never_count(tmp_path):
    """Visible parts over different invisible colours give the same picture, at any size."""
    loaded = []
    for hidden in (0, 255):
        rgba = np.full((40, 40, 4), hidden, np.uint8)
        rgba[..., 3] = 0
        rgba[10:30, 10:30] = (200, 100, 50, 255)
        Image.fromarray(rgba).save(tmp_path / "a.png")
        loaded.append([load_picture(tmp_path / "a.png", size) for size in (None, 17)])
    for one, other in zip(*loaded, strict=True):
        np.testing.assert_array_equal(one.rgb, other.rgb)
        np.testing.assert_allclose(one.rgb, np.broadcast_to([200, 100, 50], one.rgb.shape), atol=0.01)
        np.testing.assert_array_equal(one.alpha, other.alpha)


def test_what_is_transparent_takes_the_nearest_visible_colours():
    rgba = np.zeros((16, 64, 4), np.uint8)
    rgba[:, :8], rgba[:, -8:] = (255, 0, 0, 255), (0, 0, 255, 255)
    image = load_image(Image.fromarray(rgba))
    np.testing.assert_array_equal(image[:, :8], np.broadcast_to([255, 0, 0], (16, 8, 3)))
    assert (image[:, 12, 0] > 200).all()
    assert (image[:, -13, 2] > 200).all()
    assert image[:, :, 1].max() == 0


def test_half_transparent_colours_are_mixed_with_those_around_them():
    rgba = np.full((9, 9, 4), (100, 100, 100, 255), np.uint8)
    rgba[4, 4] = (200, 100, 100, 128)
    middle = load_image(Image.fromarray(rgba))[4, 4]
    assert 100 < middle[0] < 200
    np.testing.assert_allclose(middle[1:], 100, atol=0.01)


def test_a_picture_that_is_nowhere_visible_is_white():
    loaded = load_picture(Image.new("RGBA", (5, 4), (10, 20, 30, 0)))
    assert (loaded.rgb == 255).all()
    assert (loaded.alpha == 0).all()


def test_alpha_that_is_all_opaque_is_none():
    assert load_picture(Image.new("RGBA", (5, 4), (10, 20, 30, 255))).alpha is None
    assert load_picture(grains(8, 6)).alpha is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (5, 7), (16, 33)])
def test_spreading_stays_within_the_colours_there_are(rng, shape):
    alpha = rng.random(shape) * (rng.random(shape) < 0.3)
    alpha.flat[0] = 0.5
    colours = rng.uniform(40, 90, (*shape, 3))
    laid = spread(colours * alpha[:, :, None], alpha)
    assert laid.shape == colours.shape
    assert laid.min() > 39.9
    assert laid.max() < 90.1
