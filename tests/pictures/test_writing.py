"""Pictures as files: formats, depth, alpha, and outputs that can't be written."""

import io
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from picture_files import FILES, grains
from PIL import Image, ImageCms

import nst_manual
from nst_manual import NSTError
from nst_manual.pictures.profiles import SRGB_PROFILE
from nst_manual.pictures.reading import load_image, load_picture
from nst_manual.pictures.writing import check_output, save_image, to_picture

SAMPLES = np.random.default_rng(3).integers(0, 65536, (7, 9, 4)).astype(np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"])
def test_the_ending_names_the_format(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    check_output(path)
    save_image(Image.new("RGB", (20, 10), (200, 100, 50)), path)
    np.testing.assert_allclose(load_image(path), np.broadcast_to([200, 100, 50], (10, 20, 3)), atol=3)
    assert os.listdir(tmp_path) == [path.name]


def test_pixels_are_rounded_and_clipped():
    np.testing.assert_array_equal(
        np.asarray(to_picture(np.array([[[-3.0, 254.6, 300.0]], [[0.4, 1.5, 99.9]]]))), [[[0, 255, 255]], [[0, 2, 100]]]
    )


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_come_back_exactly(tmp_path, suffix):
    pixels, alpha = SAMPLES[:, :, :3] / 257, SAMPLES[:, :, 3] / 65535
    save_image(pixels, tmp_path / f"a{suffix}", bits=16)
    loaded = load_picture(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(np.rint(loaded.rgb * 257), SAMPLES[:, :, :3])
    save_image(pixels, tmp_path / f"a{suffix}", bits=16, alpha=alpha)
    loaded = load_picture(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(np.rint(loaded.alpha * 65535), SAMPLES[:, :, 3])


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_alpha_is_written(tmp_path, suffix):
    alpha = np.array([[0.0, 0.2, 1.0]])
    save_image(np.full((1, 3, 3), 80.0), tmp_path / f"a{suffix}", alpha=alpha)
    np.testing.assert_allclose(load_picture(tmp_path / f"a{suffix}").alpha, alpha, atol=0.003)


def test_transparent_areas_become_white_in_a_jpeg_and_the_log_says_so_once(tmp_path, caplog):
    alpha = np.concatenate([np.zeros((8, 8)), np.ones((8, 8))], axis=1)
    with caplog.at_level(logging.INFO, "nst_manual"):
        for name in ("a-preview.jpg", "a.jpg"):
            save_image(np.zeros((8, 16, 3)), tmp_path / name, alpha=alpha)
    assert caplog.text.count("transparent areas become white") == 1
    image = load_image(tmp_path / "a.jpg")
    assert image[:, :8].min() > 250
    assert image[:, 8:].max() < 5


@pytest.mark.parametrize(("suffix", "bits"), FILES)
def test_every_file_has_the_srgb_profile(tmp_path, suffix, bits):
    save_image(np.full((4, 4, 3), 99.0), tmp_path / f"a{suffix}", bits=bits)
    with Image.open(tmp_path / f"a{suffix}") as opened:
        assert opened.info["icc_profile"] == SRGB_PROFILE
    name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(SRGB_PROFILE)))
    assert "sRGB" in name


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a.xyz", "XYZ is not supported: use .png, .jpg, .webp or .tif"),
        ("b.bmp", "BMP is not supported: use"),
        ("a", "has no ending, which says the format: use"),
        ("a.psd", "PSD is not supported"),  # Pillow reads it, but can't write it
        ("no/a.png", "does not exist"),
        ("a" * 300 + ".png", "File name too long"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, name, sentence):
    with pytest.raises(NSTError, match=sentence):
        check_output(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_an_output_that_is_a_folder_is_refused(tmp_path):
    for name in ("a.png", "out"):
        (tmp_path / name).mkdir()
        with pytest.raises(NSTError, match="is a folder: name a file in it"):
            check_output(tmp_path / name)


@pytest.mark.skipif(sys.platform == "win32" or (hasattr(os, "geteuid") and os.geteuid() == 0), reason="root may write")
def test_an_output_in_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(NSTError, match="can't be written"):
        check_output(tmp_path / "a.png")


def test_16_bits_in_a_format_of_8_are_refused_before_the_work(tmp_path):
    for name in ("a.jpg", "a.webp"):
        with pytest.raises(NSTError, match=r"can't hold 16 bits: use \.png or \.tif"):
            check_output(tmp_path / name, 16)
    check_output(tmp_path / "a.png", 16)


def test_a_failed_save_leaves_the_old_picture(tmp_path, monkeypatch):
    grains(8, 6).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()

    def fail(self, file, **options):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(NSTError, match="No space left"):
        save_image(grains(8, 6), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    ("given", "expected"), [(None, "PNG"), ("jpg", "JPEG"), (".jpeg", "JPEG"), ("WEBP", "WEBP"), ("tif", "TIFF")]
)
def test_a_binary_file_gets_the_format_that_is_given_or_png(given, expected):
    file = io.BytesIO()
    save_image(np.full((4, 5, 3), 99.0), file, format=given)
    with Image.open(file) as opened:
        assert (opened.format, opened.size) == (expected, (5, 4))
    np.testing.assert_allclose(load_image(file), 99, atol=3)


def test_the_name_of_a_file_object_gives_its_format(tmp_path):
    with open(tmp_path / "a.webp", "wb") as file:
        save_image(grains(8, 6), file)
    with Image.open(tmp_path / "a.webp") as opened:
        assert opened.format == "WEBP"
    with open(tmp_path / "a.bmp", "wb") as file, pytest.raises(NSTError, match="BMP is not supported: use"):
        save_image(grains(8, 6), file)


def test_a_format_that_is_given_counts_more_than_the_ending(tmp_path):
    save_image(grains(8, 6), tmp_path / "a.part", format="png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.part"), np.asarray(grains(8, 6)))


def test_a_file_object_that_takes_no_bytes_gets_one_sentence(tmp_path):
    closed = io.BytesIO()
    closed.close()
    for output, sentence in ((io.StringIO(), "binary mode"), (None, "binary mode"), (closed, "closed file")):
        with pytest.raises(NSTError, match=sentence):
            save_image(grains(8, 6), output)
    with pytest.raises(NSTError, match="JPEG can't hold 16 bits"):
        save_image(grains(8, 6), io.BytesIO(), format="jpg", bits=16)


def test_a_dash_is_standard_output(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    stdout = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr("sys.stdout", stdout)
    check_output(Path("-"), 16)
    save_image(grains(8, 6), Path("-"))
    np.testing.assert_array_equal(load_image(stdout.buffer.getvalue()), np.asarray(grains(8, 6)))
    assert os.listdir(tmp_path) == []


def test_a_terminal_gets_no_picture(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with pytest.raises(NSTError, match="standard output is a terminal"):
        check_output(Path("-"))


def test_a_run_takes_bytes_and_file_objects_and_its_result_goes_to_one():
    content, out = io.BytesIO(), io.BytesIO()
    save_image(grains(40, 32), content)
    result = nst_manual.transfer(content, content.getvalue(), size=32, iterations=1)
    result.save(out, "tif")
    np.testing.assert_array_equal(load_image(out), np.asarray(result.image))
