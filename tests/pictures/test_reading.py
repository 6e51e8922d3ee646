"""Pictures in and out."""

import io
import logging
import os
import sys

import numpy as np
import pytest
from picture_files import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB_CURVE,
    cmyk_profile,
    formula_curve,
    gamma_curve,
    gray_profile,
    png,
    rgb_profile,
    table_curve,
    tiff,
)
from PIL import ExifTags, Image, ImageCms, features

from nst_manual import NSTError
from nst_manual.pictures.profiles import SRGB_PROFILE, deep_to_srgb, to_srgb
from nst_manual.pictures.reading import check_output, load_image, load_picture, resize, save_image, spread, to_picture


def picture(height=6, width=8, mode="RGB"):
    rng = np.random.default_rng(5)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


def test_a_png_comes_back_as_it_was_written(tmp_path):
    original = picture()
    save_image(original, tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, np.asarray(original))
    np.testing.assert_array_equal(np.asarray(to_picture(image)), np.asarray(original))


def test_paths_pictures_and_arrays_mean_the_same(tmp_path):
    original = picture()
    original.save(tmp_path / "a.png")
    from_path = load_image(str(tmp_path / "a.png"))
    np.testing.assert_array_equal(load_image(original), from_path)
    np.testing.assert_array_equal(load_image(np.asarray(original)), from_path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"])
def test_the_ending_names_the_format(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    check_output(path)
    save_image(Image.new("RGB", (20, 10), (200, 100, 50)), path)
    np.testing.assert_allclose(load_image(path), np.broadcast_to([200, 100, 50], (10, 20, 3)), atol=3)
    assert os.listdir(tmp_path) == [path.name]


def test_a_picture_is_made_smaller_but_never_larger():
    assert load_image(picture(60, 80), 40).shape == (30, 40, 3)
    assert load_image(picture(80, 60), 40).shape == (40, 30, 3)
    assert load_image(picture(6, 8), 40).shape == (6, 8, 3)
    assert load_image(picture(2, 1000), 10).shape == (1, 10, 3)


def test_resizing_keeps_flat_colours_and_the_range(rng):
    flat = np.broadcast_to(np.array([255.0, 0.0, 100.25]), (9, 9, 3))
    np.testing.assert_allclose(resize(flat, 5, 4), np.broadcast_to([255.0, 0.0, 100.25], (5, 4, 3)), atol=1e-4)
    sharp = resize(rng.integers(0, 2, (9, 9, 3)) * 255.0, 17, 21)
    assert sharp.min() >= 0
    assert sharp.max() <= 255


def test_exif_orientation_is_applied(tmp_path):
    original = picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise
    original.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), np.rot90(np.asarray(original), -1))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA", "YCbCr", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(mode):
    source = picture(mode="L").convert(mode) if mode != "I;16" else Image.fromarray(np.full((6, 8), 40000, np.uint16))
    image = load_image(source)
    assert image.shape == (6, 8, 3)
    assert 0 <= image.min() <= image.max() <= 255


def test_sixteen_bits_keep_their_depth():
    gray = Image.fromarray(np.array([[0, 100, 257, 65535]], np.uint16))
    np.testing.assert_allclose(load_image(gray)[0, :, 0], [0, 100 / 257, 1, 255], rtol=1e-6)


def test_pixels_are_rounded_and_cut_off():
    np.testing.assert_array_equal(
        np.asarray(to_picture(np.array([[[-3.0, 254.6, 300.0]], [[0.4, 1.5, 99.9]]]))), [[[0, 255, 255]], [[0, 2, 100]]]
    )


def test_a_missing_file_a_folder_and_junk_are_told_apart(tmp_path):
    with pytest.raises(NSTError, match="does not exist"):
        load_image(tmp_path / "missing.png")
    with pytest.raises(NSTError, match="is a folder"):
        load_image(tmp_path)
    (tmp_path / "junk.png").write_bytes(b"not a picture")
    with pytest.raises(NSTError, match="can't be read as a picture"):
        load_image(tmp_path / "junk.png")


def test_a_truncated_picture_is_refused(tmp_path):
    buffer = io.BytesIO()
    picture(60, 80).save(buffer, "PNG")
    (tmp_path / "half.png").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(NSTError, match="can't be read"):
        load_image(tmp_path / "half.png")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    picture(60, 80).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with pytest.raises(NSTError, match="more pixels"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a.xyz", "names no picture format"),
        ("a", "names no picture format"),
        ("a.psd", "names no picture format"),  # Pillow reads it, but can't write it
        ("no/a.png", "does not exist"),
    ],
)
def test_an_output_that_cannot_be_written_is_found_out_before(tmp_path, name, sentence):
    with pytest.raises(NSTError, match=sentence):
        check_output(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_a_folder_is_no_output(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(NSTError, match="is a folder"):
        check_output(tmp_path / "a.png")


@pytest.mark.skipif(sys.platform == "win32" or (hasattr(os, "geteuid") and os.geteuid() == 0), reason="root may write")
def test_a_folder_without_permission_is_no_place_for_outputs(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(NSTError, match="can't be written"):
        check_output(tmp_path / "a.png")


def test_a_failed_save_leaves_the_old_picture(tmp_path, monkeypatch):
    picture().save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()

    def fail(self, file, **options):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(NSTError, match="No space left"):
        save_image(picture(), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4)), np.zeros((4, 4, 4)), np.zeros((0, 4, 3)), np.full((2, 2, 3), np.nan)]
)
def test_an_array_that_is_no_picture_is_refused(array):
    with pytest.raises(NSTError, match="array"):
        load_image(array)


# Which files


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF"])
def test_what_pillow_opens_is_read(tmp_path, file_format):
    if file_format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    Image.new("RGB", (20, 10), (200, 100, 50)).save(tmp_path / "a", file_format)
    np.testing.assert_allclose(load_image(tmp_path / "a"), np.broadcast_to([200, 100, 50], (10, 20, 3)), atol=5)


def test_of_an_animation_the_first_picture_is_taken_and_this_is_said(tmp_path, caplog):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with caplog.at_level(logging.INFO, "nst_manual"):
        np.testing.assert_array_equal(load_image(tmp_path / "a.gif")[0, 0], [255, 0, 0])
    assert "several pictures: the first is taken" in caplog.text


def test_heif_names_the_package_that_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(bytes(4) + b"ftypheic" + bytes(40))
    with pytest.raises(NSTError, match="HEIF pictures need `pip install pillow-heif`"):
        load_image(tmp_path / "a.heic")


def test_a_dash_is_standard_input(monkeypatch):
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(buffer.getvalue())))
    np.testing.assert_array_equal(load_image("-"), np.asarray(picture()))
    with pytest.raises(NSTError, match="standard input is empty: send a picture to it, and only one"):
        load_image("-")


def test_standard_input_is_not_read_without_end(monkeypatch):
    monkeypatch.setattr("nst_manual.pictures.reading.STANDARD_INPUT_LIMIT", 100)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(bytes(101))))
    with pytest.raises(NSTError, match="more than a picture should"):
        load_image("-")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("where", ["EXIF", "XMP", "TIFF", "deep TIFF", "plain TIFF"])
def test_every_orientation_is_set_upright(tmp_path, where, orientation):
    upright = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10
    ways = [  # from upright to stored: the inverse of what EXIF says is to be done
        lambda a: a, lambda a: a[:, ::-1], lambda a: a[::-1, ::-1], lambda a: a[::-1], lambda a: a.swapaxes(0, 1),
        np.rot90, lambda a: np.rot90(a, 2).swapaxes(0, 1), lambda a: np.rot90(a, -1),
    ]  # fmt: skip
    stored = np.ascontiguousarray(ways[orientation - 1](upright))
    path, exif = tmp_path / "a", Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    if where == "EXIF":
        Image.fromarray(stored).save(path, "PNG", exif=exif)
    elif where == "XMP":
        packet = f'<rdf:Description tiff:Orientation="{orientation}"/>'.encode()
        Image.fromarray(stored).save(path, "WEBP", lossless=True, xmp=packet)
    else:
        kind = {"TIFF": np.uint8, "deep TIFF": np.uint16, "plain TIFF": np.float32}[where]
        scale = {"TIFF": 1, "deep TIFF": 257, "plain TIFF": 1 / 255}[where]
        path.write_bytes(tiff((stored.astype(np.float64) * scale).astype(kind), tags={274: orientation}))
    np.testing.assert_allclose(load_image(path), upright, atol=1e-4)


# Depth


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


@pytest.mark.parametrize(("brightest", "white"), [(0.5, 1), (1, 1), (3, 1), (200, 255), (60000, 65535), (1e6, 1e6)])
def test_a_rule_says_what_is_white_in_floating_point(brightest, white):
    values = np.array([[0, 0.25, 0.5, brightest]], np.float32)
    image = load_image(Image.fromarray(values))
    np.testing.assert_allclose(image[0, :, 0], np.minimum(values[0] / white, 1) * 255, rtol=1e-5)


def test_floats_that_are_no_numbers_are_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(np.full((4, 4, 3), np.nan, np.float32)))
    with pytest.raises(NSTError, match="not finite"):
        load_image(tmp_path / "a.tif")


def test_dark_16_bits_stay_dark():
    assert load_image(Image.fromarray(np.full((2, 2), 200, np.uint16))).max() < 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_written_and_read_again_exactly(tmp_path, suffix):
    pixels, alpha = DEEP[:, :, :3] / 257, DEEP[:, :, 3] / 65535
    save_image(pixels, tmp_path / f"a{suffix}", bits=16)
    loaded = load_picture(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(np.rint(loaded.rgb * 257), DEEP[:, :, :3])
    save_image(pixels, tmp_path / f"a{suffix}", bits=16, alpha=alpha)
    loaded = load_picture(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(np.rint(loaded.alpha * 65535), DEEP[:, :, 3])


def test_16_bits_in_a_format_of_8_are_refused_before_the_work(tmp_path):
    for name in ("a.jpg", "a.webp"):
        with pytest.raises(NSTError, match=r"can't hold 16 bits: end it in \.png or \.tif"):
            check_output(tmp_path / name, 16)
    check_output(tmp_path / "a.png", 16)


# Colour profiles


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
def test_deep_grays_too(curve):
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


def test_a_broken_profile_is_passed_over_and_this_is_said(tmp_path, caplog):
    for data in (b"junk" * 50, gray_profile(SRGB_CURVE)[:140], gray_profile(SRGB_CURVE)):
        picture().save(tmp_path / "a.png", icc_profile=data)
        with caplog.at_level(logging.INFO, "nst_manual"):
            np.testing.assert_array_equal(load_image(tmp_path / "a.png"), np.asarray(picture()))
        assert "is passed over" in caplog.text


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_written_says_that_it_is_srgb(tmp_path, suffix, bits):
    if bits == 16 and suffix in (".jpg", ".webp"):
        pytest.skip("no such files")
    save_image(np.full((4, 4, 3), 99.0), tmp_path / f"a{suffix}", bits=bits)
    with Image.open(tmp_path / f"a{suffix}") as opened:
        assert opened.info["icc_profile"] == SRGB_PROFILE
    name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(SRGB_PROFILE)))
    assert "sRGB" in name


# Transparency


def test_invisible_colours_never_count(tmp_path):
    """The same visible parts above whatever invisible colours: the same picture, at any size."""
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
    assert load_picture(picture()).alpha is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (5, 7), (16, 33)])
def test_spreading_stays_within_the_colours_there_are(rng, shape):
    alpha = rng.random(shape) * (rng.random(shape) < 0.3)
    alpha.flat[0] = 0.5
    colours = rng.uniform(40, 90, (*shape, 3))
    laid = spread(colours * alpha[:, :, None], alpha)
    assert laid.shape == colours.shape
    assert laid.min() > 39.9
    assert laid.max() < 90.1


@pytest.mark.parametrize(
    ("bits", "kind", "rows", "clear", "alpha"),
    [
        (8, 0, bytes([7, 9]), (0, 9), [1, 0]),
        (2, 0, bytes([0b01110000]), (0, 3), [1, 0]),
        (1, 0, bytes([0b01000000]), (0, 1), [1, 0]),
        (16, 0, bytes([0, 7, 1, 9]), (1, 9), [1, 0]),
        (8, 2, bytes([1, 2, 3, 4, 5, 6]), (0, 4, 0, 5, 0, 6), [1, 0]),
        (16, 2, bytes([0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6]), (0, 4, 0, 5, 0, 6), [1, 0]),
        (16, 2, bytes([0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6]), (0, 4, 0, 5, 1, 6), None),
    ],
)
def test_pngs_transparent_colour_is_transparent(tmp_path, bits, kind, rows, clear, alpha):
    (tmp_path / "a.png").write_bytes(png(2, 1, bits, kind, rows, [(b"tRNS", bytes(clear))]))
    loaded = load_picture(tmp_path / "a.png")
    if alpha is None:
        assert loaded.alpha is None
    else:
        np.testing.assert_array_equal(loaded.alpha[0], alpha)


def test_palettes_keep_their_transparency(tmp_path):
    paletted = Image.new("P", (3, 1))
    paletted.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60])
    paletted.putdata([0, 1, 2]) if not hasattr(paletted, "frombytes") else paletted.frombytes(bytes([0, 1, 2]))
    paletted.save(tmp_path / "a.png", transparency=bytes([255, 0, 128]))
    np.testing.assert_allclose(load_picture(tmp_path / "a.png").alpha[0], [1, 0, 128 / 255])


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_alpha_is_written(tmp_path, suffix):
    alpha = np.array([[0.0, 0.2, 1.0]])
    save_image(np.full((1, 3, 3), 80.0), tmp_path / f"a{suffix}", alpha=alpha)
    np.testing.assert_allclose(load_picture(tmp_path / f"a{suffix}").alpha, alpha, atol=0.003)


def test_a_format_without_alpha_is_laid_over_white_and_this_is_said_once(tmp_path, caplog):
    alpha = np.concatenate([np.zeros((8, 8)), np.ones((8, 8))], axis=1)
    with caplog.at_level(logging.INFO, "nst_manual"):
        for name in ("a-preview.jpg", "a.jpg"):
            save_image(np.zeros((8, 16, 3)), tmp_path / name, alpha=alpha)
    assert caplog.text.count("laid over white") == 1
    image = load_image(tmp_path / "a.jpg")
    assert image[:, :8].min() > 250
    assert image[:, 8:].max() < 5


# Sizes


def test_pictures_are_enlarged_only_if_asked():
    assert load_picture(picture(6, 8), 40).rgb.shape == (6, 8, 3)
    assert load_picture(picture(6, 8), 40, enlarge=True).rgb.shape == (30, 40, 3)
    assert load_picture(picture(60, 80), scale=0.5).rgb.shape == (30, 40, 3)
    assert load_picture(picture(60, 80), 40, scale=0.5).rgb.shape == (15, 20, 3)
    assert load_picture(picture(6, 8), scale=1.5, enlarge=True).rgb.shape == (9, 12, 3)


def test_a_size_beyond_all_measure_is_refused_before_it_is_made():
    with pytest.raises(NSTError, match="choose a smaller size"):
        load_picture(picture(6, 8), 10**9, enlarge=True)


# EXIF


def exif_of(path):
    with Image.open(path) as opened:
        exif = opened.getexif()
        return dict(exif), dict(exif.get_ifd(0x8769)), dict(exif.get_ifd(0x8825)), dict(exif.get_ifd(1))


def photograph(path, maker_note=b"secret"):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8298] = 6, "Maker", "Somebody"
    exif.get_ifd(0x8769).update({0x829A: 0.125, 0x9003: "2024:02:03 04:05:06", 0xA002: 8, 0xA001: 65535})
    exif.get_ifd(0x8769)[0x927C] = maker_note
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    exif.get_ifd(1).update({0x0201: 0, 0x0103: 6})
    if path.suffix == ".tif":  # Pillow would leave the directories out
        save_image(picture(), path, exif=exif.tobytes())
    else:
        picture().save(path, exif=exif)
    return load_picture(path)


@pytest.mark.parametrize("source", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("bits", [8, 16])
def test_exif_is_kept_except_orientation_thumbnail_and_what_is_no_longer_true(tmp_path, source, suffix, bits):
    if bits == 16 and suffix in (".jpg", ".webp"):
        pytest.skip("no such files")
    loaded = photograph(tmp_path / f"a{source}")
    save_image(loaded.rgb, tmp_path / f"b{suffix}", exif=loaded.exif, bits=bits)
    tags, details, place, thumbnail = exif_of(tmp_path / f"b{suffix}")
    assert (tags[0x010F], tags[0x8298]) == ("Maker", "Somebody")
    assert 0x0112 not in tags
    assert thumbnail == {}
    assert float(details[0x829A]) == 0.125
    assert (details[0x9003], details[0xA002], details[0xA001]) == ("2024:02:03 04:05:06", 6, 1)
    assert place[1] == "N"
    np.testing.assert_array_equal(load_image(tmp_path / f"b{suffix}").shape, loaded.rgb.shape)


def test_exif_too_long_for_a_jpeg_loses_the_makers_note_first(tmp_path):
    loaded = photograph(tmp_path / "a.tif", bytes(70_000))
    save_image(loaded.rgb, tmp_path / "b.jpg", exif=loaded.exif)
    tags, details, _, _ = exif_of(tmp_path / "b.jpg")
    assert tags[0x010F] == "Maker"
    assert 0x927C not in details
