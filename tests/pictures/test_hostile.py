"""Broken, odd and hostile pictures: each gives the right picture or one sentence, quickly and in little memory."""

import io
import os
import struct
import sys
import time
import zlib

import numpy as np
import pytest
from picture_files import ADOBE_RGB, SRGB_CURVE, formula_curve, gamma_curve, gray_profile, png, rgb_profile, tiff
from PIL import Image

from nst_manual import NSTError
from nst_manual.cli.main import main
from nst_manual.pictures.reading import load_picture
from nst_manual.pictures.writing import save_image

# name → (width, height), mean colour, whether it has alpha; or part of the error
EXPECTED = {
    "16bit.cropped.tif": ((64, 64), (1.5, 1.5, 1.5), False),  # 16-bit gray, nearly black: 691 of 65535
    "apng_mode_16bit.png": ((128, 64), (254, 0, 0), False),  # 16 bits, animated: its first picture is red
    "broken.png": "its format is unknown",
    "broken_data_stream.png": "unrecognized data stream",
    "chi.gif": ((320, 240), (249.7, 251.1, 247), False),
    "decompression_bomb.gif": "more pixels than a picture should",
    "hopper.Lab.tif": ((128, 128), (88.8, 80, 95.3), False),
    "hopper.webp": ((128, 128), (89.8, 80.1, 95.5), False),
    "hopper_gray.jpg": ((128, 128), (84.7, 84.7, 84.7), False),
    "hopper_orientation_6.jpg": ((128, 128), (89.7, 80.1, 95.3), False),
    "i_trns.png": ((64, 64), (0.4, 0.4, 0.4), True),  # 16-bit gray with a transparent level
    "l_trns.png": ((64, 64), (114.5, 114.5, 114.5), True),
    "orientation_rectangle.jpg": ((1, 2), (254, 0, 0), False),  # stored lying on its side
    "p_trns_single.png": ((64, 64), (79.5, 160.3, 142.1), True),
    "pil_sample_cmyk.jpg": ((100, 100), (30.2, 5.4, 7.4), False),
    "tiff_16bit_RGB.tiff": ((100, 40), (42.1, 29.2, 22.1), False),
    "transparent.webp": ((200, 150), (97.5, 85.4, 74.8), True),
    "truncated_jpeg.jpg": "is truncated",
    "uncompressed_la.png": ((128, 128), (77.5, 77.5, 77.5), True),
    "xmp_test.jpg": ((2000, 1072), (131.1, 128.4, 126.4), False),  # Adobe RGB
    "zero_width.gif": "its format is unknown",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_picture_of_the_hostile_set_is_read_or_refused_as_expected(real_data, name):
    expected = EXPECTED[name]
    if isinstance(expected, str):
        with pytest.raises(NSTError, match=expected):
            load_picture(real_data / "hostile" / name)
        return
    (width, height), mean, has_alpha = expected
    loaded = load_picture(real_data / "hostile" / name)
    assert loaded.rgb.shape == (height, width, 3)
    np.testing.assert_allclose(loaded.rgb.mean((0, 1)), mean, atol=2.5)
    assert (loaded.alpha is not None) == has_alpha


def test_every_picture_of_the_hostile_set_is_tested(real_data):
    assert {path.name for path in (real_data / "hostile").iterdir()} == set(EXPECTED)


def test_a_16_bit_tiff_of_the_hostile_set_is_not_cut_to_8(real_data):
    rgb = load_picture(real_data / "hostile" / "tiff_16bit_RGB.tiff").rgb
    assert len(np.unique(np.rint(rgb * 257))) > 5000


def test_the_gray_and_the_turned_hopper_are_the_upright_one(real_data):
    upright, turned, gray = (
        load_picture(real_data / "hostile" / f"hopper{rest}").rgb
        for rest in (".webp", "_orientation_6.jpg", "_gray.jpg")
    )
    assert np.abs(turned - upright).mean() < 7
    assert np.abs(gray[:, :, 0] - upright @ (0.299, 0.587, 0.114)).mean() < 5


def test_adobe_rgb_of_the_hostile_set_becomes_srgb(real_data):
    path = real_data / "hostile" / "xmp_test.jpg"
    with Image.open(path) as opened:
        stored = np.asarray(opened, dtype=np.float32)
    loaded = load_picture(path)
    saturation = [np.ptp(image, axis=2).mean() for image in (stored, loaded.rgb)]
    assert saturation[1] > 1.05 * saturation[0]
    assert b"Canon" in loaded.exif


def png_header(width, height):
    """A PNG file whose header claims a size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    good = png(1, 1, 8, 2, b"abc")
    return good[:12] + header + struct.pack(">I", zlib.crc32(header)) + good[33:]


def hostile():
    """name → (bytes, part of the error)"""
    good = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(good, "JPEG")
    samples = np.ones((4, 4, 3), np.float32)
    segment = b"\xff\xe1" + (65000).to_bytes(2) + b"Exif\0\0" + bytes(65000 - 8)
    return {
        "nothing": (b"", "is empty"),
        "text": (b"Hello", "is unknown"),
        "a bomb": (png_header(30000, 30000), "more pixels"),
        "a bomb of one row": (png_header(2**31 - 1, 1), "more pixels"),
        "no width": (png_header(0, 5), "can't be read"),
        "no height": (png_header(5, 0), "can't be read"),
        "a JPEG cut off": (good.getvalue()[:-200], "runcated"),
        "only a JPEG's head": (good.getvalue()[:300], "can't be read"),
        "a JPEG of 20 MB of EXIF": (good.getvalue()[:2] + 300 * segment + good.getvalue()[2:], "more EXIF"),
        "HEIF": (bytes(4) + b"ftypheic" + bytes(40), "can't be read"),
        "PostScript": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            "is not run",
        ),
        "a TIFF bomb": (tiff(samples, tags={256: 60000, 257: 60000}), "more pixels"),
        "a TIFF of no pixels": (tiff(samples, tags={256: 0}), "0×4 pixels"),
        "a TIFF whose strips are too few": (tiff(samples, rows=2, tags={257: 40}), "don't cover"),
        "a TIFF of 25 million tiles": (tiff(samples, tile=16, tags={256: 5000, 257: 5000, 322: 1, 323: 1}), "cover"),
        "a TIFF of one giant tile": (tiff(samples, tile=16, tags={322: 2**31, 323: 2**31}), "tiles of"),
        "a TIFF that ends early": (tiff(samples, tags={279: 9, 273: 10**6}), "truncated"),
        "a TIFF compressed otherwise": (tiff(samples, tags={259: 5}), "Deflate"),
        "a TIFF of too many channels": (tiff(np.ones((4, 4, 5), np.float32), tags={277: 4000}), "channels"),
        "a TIFF of directories in a ring": (tiff(samples)[:4] + struct.pack("<I", 4) + bytes(40), "can't be read"),
        "a deflated bomb": (tiff(np.ones((4, 4, 3), np.float32), compression=8, tags={279: 3}), "can't be read"),
    }


@pytest.mark.parametrize("name", hostile())
def test_a_hostile_picture_gets_one_sentence_and_exit_code_2(tmp_path, capsys, name):
    data, words = hostile()[name]
    (tmp_path / "a").write_bytes(data)
    began = time.perf_counter()
    assert main(["transfer", str(tmp_path / "a"), str(tmp_path / "a"), "-o", str(tmp_path / "out.png")]) == 2
    captured = capsys.readouterr()
    assert time.perf_counter() - began < 2
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1, captured.err
    assert words in captured.err
    assert not (tmp_path / "out.png").exists()


def test_a_picture_of_1_by_100000_pixels_is_too_small(tmp_path, capsys):
    for size in ((1, 100_000), (100_000, 1)):
        Image.new("L", size).save(tmp_path / "a.png")
        assert main(["transfer", str(tmp_path / "a.png"), str(tmp_path / "a.png"), "-o", str(tmp_path / "o.png")]) == 2
        assert "needs at least 16 on each side" in capsys.readouterr().err


def seeds():
    rng = np.random.default_rng(8)
    deep = rng.integers(0, 65536, (9, 11, 4)).astype(np.uint16)
    shallow = Image.fromarray((deep[:, :, :3] >> 8).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    exif.get_ifd(0x8769).update({0x829A: 0.125, 0x9003: "2024:02:03 04:05:06"})
    files = {}
    for file_format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF"):
        file = io.BytesIO()
        options = {} if file_format == "GIF" else {"exif": exif, "icc_profile": rgb_profile(ADOBE_RGB, SRGB_CURVE)}
        shallow.save(file, file_format, **options)
        files[file_format] = file.getvalue()
    files["PNG of 16 bits"] = png(11, 9, 16, 6, deep.astype(">u2").tobytes())
    curve = gamma_curve(2.2)
    files["TIFF of 16 bits"] = tiff(deep[:, :, :3], tags={34675: rgb_profile(ADOBE_RGB, curve), 274: 5})
    files["TIFF of planes"] = tiff(deep, planar=2, compression=8)
    files["TIFF of floats"] = tiff(np.float32(deep / 65535), ">", 8, 3, tile=16)
    files["TIFF of gray"] = tiff(np.float32(deep[:, :, :2] / 65535), tags={34675: gray_profile(curve)})
    return files


@pytest.mark.parametrize("name", seeds())
def test_a_damaged_picture_is_read_or_refused_in_one_sentence(tmp_path, name):
    rng = np.random.default_rng(len(name))
    original, sentences = seeds()[name], []
    for trial in range(60):
        data = bytearray(original)
        for _ in range(rng.integers(1, 8)):
            data[rng.integers(len(data))] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
        if trial % 5 == 0:
            data = data[: rng.integers(len(data))]
        (tmp_path / "a").write_bytes(data)
        try:
            loaded = load_picture(tmp_path / "a", 64)
        except NSTError as error:
            sentences.append(str(error))
            continue
        assert np.isfinite(loaded.rgb).all()
        assert 0 <= loaded.rgb.min() <= loaded.rgb.max() <= 255
        for suffix in (".tif", ".png", ".jpg"):
            save_image(loaded.rgb, tmp_path / f"b{suffix}", alpha=loaded.alpha, exif=loaded.exif)
    assert all(sentence.isprintable() for sentence in sentences)


def test_exif_that_is_too_long_to_parse_is_left_out(tmp_path):
    entries = b"".join(struct.pack("<HHII", tag, 7, 400_000, 8) for tag in range(0x8300, 0x8300 + 60_000 // 12))
    exif = b"II*\0" + struct.pack("<IH", 8, len(entries) // 12) + entries + bytes(400_000)
    (tmp_path / "a.png").write_bytes(png(1, 1, 8, 2, b"abc", [(b"eXIf", exif)]))
    loaded = load_picture(tmp_path / "a.png")
    assert loaded.exif == b""
    np.testing.assert_array_equal(loaded.rgb[0, 0], list(b"abc"))


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "a.tif", "wb") as file:
        file.write(b"II*\0")
        file.truncate(200 * 2**30)  # sparse: it takes no room
    with pytest.raises(NSTError, match="more than a picture should"):
        load_picture(tmp_path / "a.tif")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.parametrize("name", ["/dev/zero", "fifo", "/proc/self/pagemap", "a" * 300, "a\0b"])
def test_special_files_and_impossible_names_are_refused(tmp_path, name):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NSTError, match=r"is not a regular file|is empty|does not exist|File name too long"):
        load_picture(str(tmp_path / name))


@pytest.mark.parametrize(
    "curve",
    [
        formula_curve(0, -2.0),
        formula_curve(0, -1.0),
        formula_curve(3, -3, 0, 0, 0, 0),
        formula_curve(4, 1, 0, 0, -32768, 1, 0, 0),
        formula_curve(4, 1, 0, 0, 32767, 0, 0, 0),
        formula_curve(2, 2.4, 32767, 1, 32767),
    ],
)
def test_a_hostile_profile_leaves_no_pixel_that_is_not_finite(tmp_path, curve):
    samples = np.linspace(0, 65535, 48).reshape(4, 4, 3).astype(np.uint16)
    for data, channels in (
        (rgb_profile(ADOBE_RGB, curve), 3),
        (rgb_profile(np.full((3, 3), 32767.0), curve), 3),
        (gray_profile(curve), 1),
    ):
        (tmp_path / "a.tif").write_bytes(tiff(samples[:, :, :channels], tags={34675: data}))
        rgb = load_picture(tmp_path / "a.tif").rgb
        assert np.isfinite(rgb).all()
        assert 0 <= rgb.min() <= rgb.max() <= 255
