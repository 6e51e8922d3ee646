"""16-bit and floating-point files keep their depth."""

import numpy as np
import pytest
from picture_files import png, tiff
from PIL import Image

from nst_manual.pictures.reading import load_image, load_picture

DEEP = np.random.default_rng(3).integers(0, 65536, (7, 9, 4)).astype(np.uint16)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_keeps_16_bits(tmp_path, kind, channels):
    samples = DEEP[:, :, -channels:]
    if channels in (2, 4):
        samples = np.concatenate([samples[:, :, :-1], np.full((7, 9, 1), 65535, np.uint16)], axis=2)
    (tmp_path / "a.png").write_bytes(png(9, 7, 16, kind, samples.astype(">u2").tobytes()))
    expected = np.broadcast_to(samples[:, :, : 1 if channels < 3 else 3], (7, 9, 3)) / 257
    np.testing.assert_allclose(load_image(tmp_path / "a.png"), expected, atol=1e-4)


@pytest.mark.parametrize("kind", [4, 6])
def test_png_keeps_16_bits_of_alpha(tmp_path, kind):
    samples = DEEP[:, :, : 2 if kind == 4 else 4]
    (tmp_path / "a.png").write_bytes(png(9, 7, 16, kind, samples.astype(">u2").tobytes()))
    np.testing.assert_allclose(load_picture(tmp_path / "a.png").alpha, samples[:, :, -1] / 65535, atol=1e-6)


@pytest.mark.parametrize("layout", ["strips", "tiles", "planes", "deflated", "predicted"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_tiff_keeps_16_bits(tmp_path, layout, order, channels):
    samples = np.tile(DEEP, (3, 3, 1))[:, :, :channels]
    how = {"strips": {"rows": 4}, "tiles": {"tile": 16}, "planes": {"planar": 2}, "deflated": {"compression": 8}}
    how["predicted"] = {"compression": 8, "predictor": 2, "tile": 16}
    (tmp_path / "a.tif").write_bytes(tiff(samples, order, **how[layout]))
    loaded = load_picture(tmp_path / "a.tif")
    if channels in (1, 3):
        np.testing.assert_allclose(loaded.rgb, np.broadcast_to(samples, (21, 27, 3)) / 257, atol=1e-4)
    else:
        np.testing.assert_allclose(loaded.alpha, samples[:, :, -1] / 65535, atol=1e-6)


@pytest.mark.parametrize("how", [{}, {"compression": 8}, {"compression": 8, "predictor": 3}, {"planar": 2}])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_keeps_floating_point(tmp_path, how, dtype, channels):
    samples = np.random.default_rng(4).random((6, 5, channels)).astype(dtype)
    (tmp_path / "a.tif").write_bytes(tiff(samples, **how))
    expected = np.broadcast_to(samples.astype(np.float64), (6, 5, 3)) * 255
    np.testing.assert_allclose(load_image(tmp_path / "a.tif"), expected, atol=1e-3)


def test_these_tests_predict_floats_as_libtiff_does(tmp_path):
    samples = np.random.default_rng(4).random((6, 5, 1)).astype(np.float32)
    (tmp_path / "a.tif").write_bytes(tiff(samples, compression=8, predictor=3))
    with Image.open(tmp_path / "a.tif") as opened:
        np.testing.assert_array_equal(np.asarray(opened), samples[:, :, 0])
