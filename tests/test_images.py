"""Pictures in and out."""

import io
import os
import sys

import numpy as np
import pytest
from PIL import Image

from nst_manual import NSTError
from nst_manual.images import check_output, load_image, resize, save_image, to_picture


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


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
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


def test_transparency_is_laid_over_white():
    clear = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    clear.putpixel((1, 0), (100, 200, 0, 51))
    image = load_image(clear)
    np.testing.assert_array_equal(image[0, 0], [255, 255, 255])
    np.testing.assert_allclose(image[0, 1], [224, 244, 204], atol=0.01)


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
    [("a.xyz", "names no picture format"), ("a", "names no picture format"), ("no/a.png", "does not exist")],
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
