"""Colour profiles → sRGB."""

import logging

import numpy as np
import pytest
from picture_files import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB_CURVE,
    cmyk_profile,
    formula_curve,
    gamma_curve,
    grains,
    gray_profile,
    rgb_profile,
    table_curve,
    tiff,
)
from PIL import Image

from nst_manual.pictures.profiles import deep_to_srgb, to_srgb
from nst_manual.pictures.reading import load_image


def through_profile(colours, space, data):
    """The same 8-bit colours by ImageCms and, as floats, by our own conversion."""
    picture = Image.fromarray(colours)
    picture.info["icc_profile"] = data
    deep = colours[:, :, None] if colours.ndim == 2 else colours
    return np.asarray(to_srgb(picture, "a")), deep_to_srgb(deep.astype(np.float32) / 255, data, "a") * 255


CURVES = {
    "gamma 2.2": gamma_curve(563 / 256),
    "gamma 1": b"curv\0\0\0\0\0\0\0\0",
    "sRGB's": SRGB_CURVE,
    "a table": table_curve(np.linspace(0, 1, 50) ** 1.8),
    "formula 0": formula_curve(0, 1.8),
    "formula 1": formula_curve(1, 2.0, 1.1, -0.1),
    "formula 2": formula_curve(2, 2.0, 1.1, -0.1, 0.0003),
    "formula 4": formula_curve(4, 2.4, 0.9, 0.05, 0.1, 0.04, 0.01, 0.0),
}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("primaries", [ADOBE_RGB, DISPLAY_P3], ids=["Adobe RGB", "Display P3"])
def test_deep_pictures_get_the_colours_that_imagecms_gives(rng, curve, primaries):
    colours = rng.integers(30, 226, (20, 20, 3), dtype=np.uint8)
    shallow, deep = through_profile(colours, "RGB", rgb_profile(primaries, CURVES[curve]))
    assert np.abs(shallow.astype(int) - colours).max() > 5
    np.testing.assert_allclose(deep, shallow, atol=1.6)


@pytest.mark.parametrize("curve", CURVES)
def test_deep_grays_get_the_levels_that_imagecms_gives(curve):
    grays = np.arange(20, 240, dtype=np.uint8)[None]
    shallow, deep = through_profile(grays, "GRAY", gray_profile(CURVES[curve]))
    np.testing.assert_allclose(deep, shallow, atol=1.6)


def test_profiles_are_applied_in_files_of_8_and_of_16_bits(tmp_path):
    data = rgb_profile(ADOBE_RGB, gamma_curve(563 / 256))
    colour = np.full((4, 4, 3), (60, 200, 60), np.uint8)
    Image.fromarray(colour).save(tmp_path / "a.jpg", icc_profile=data, quality=100, subsampling=0)
    (tmp_path / "a.tif").write_bytes(tiff(colour.astype(np.uint16) * 257, tags={34675: data}))
    for name in ("a.jpg", "a.tif"):  # a green that sRGB has not: red is cut off
        np.testing.assert_allclose(load_image(tmp_path / name)[0, 0], [0, 201, 36], atol=4)


def test_a_gray_picture_may_have_a_profile_of_colours():
    gray = Image.new("L", (2, 2), 128)
    gray.info["icc_profile"] = rgb_profile(DISPLAY_P3, SRGB_CURVE)
    np.testing.assert_allclose(load_image(gray), 128, atol=1)


def test_cmyk_goes_through_its_profile_and_without_one_through_pillows_formula():
    lab = {(1, 0, 0, 0): (50, -30, -40), (0, 0, 0, 0): (100, 0, 0)}
    inks = Image.new("CMYK", (2, 1))
    inks.putpixel((1, 0), (255, 0, 0, 0))
    np.testing.assert_array_equal(load_image(inks)[0], [[255, 255, 255], [0, 255, 255]])
    inks.info["icc_profile"] = cmyk_profile(lambda *ink: lab.get(ink, (0, 0, 0)))
    image = load_image(inks)
    np.testing.assert_allclose(image[0, 0], 255, atol=2)
    cyan = Image.new("LAB", (1, 1))
    cyan.putpixel((0, 0), (round(50 * 2.55), 128 - 30, 128 - 40))
    np.testing.assert_allclose(image[0, 1], load_image(cyan)[0, 0], atol=3)


def test_a_broken_profile_is_ignored_and_the_log_says_so(tmp_path, caplog):
    for data in (b"junk" * 50, gray_profile(SRGB_CURVE)[:140], gray_profile(SRGB_CURVE)):
        grains(8, 6).save(tmp_path / "a.png", icc_profile=data)
        with caplog.at_level(logging.INFO, "nst_manual"):
            np.testing.assert_array_equal(load_image(tmp_path / "a.png"), np.asarray(grains(8, 6)))
        assert "is ignored" in caplog.text
