"""Picture files, bytes and arrays as the program sees them."""

import io
import logging
import sys

import numpy as np
import pytest
from picture_files import grains, png, tiff
from PIL import ExifTags, Image, features

from nst_manual import NSTError
from nst_manual.pictures.reading import load_image, load_picture
from nst_manual.pictures.writing import save_image, to_picture


def test_a_png_comes_back_as_it_was_written(tmp_path):
    original = grains(8, 6)
    save_image(original, tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, np.asarray(original))
    np.testing.assert_array_equal(np.asarray(to_picture(image)), np.asarray(original))


def test_paths_pictures_and_arrays_mean_the_same(tmp_path):
    original = grains(8, 6)
    original.save(tmp_path / "a.png")
    from_path = load_image(str(tmp_path / "a.png"))
    np.testing.assert_array_equal(load_image(original), from_path)
    np.testing.assert_array_equal(load_image(np.asarray(original)), from_path)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA", "YCbCr", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(mode):
    source = grains(8, 6).convert(mode) if mode != "I;16" else Image.fromarray(np.full((6, 8), 40000, np.uint16))
    image = load_image(source)
    assert image.shape == (6, 8, 3)
    assert 0 <= image.min() <= image.max() <= 255


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF"])
def test_what_pillow_opens_is_read(tmp_path, file_format):
    if file_format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    Image.new("RGB", (20, 10), (200, 100, 50)).save(tmp_path / "a", file_format)
    np.testing.assert_allclose(load_image(tmp_path / "a"), np.broadcast_to([200, 100, 50], (10, 20, 3)), atol=5)


def test_the_first_picture_of_an_animation_is_used_and_the_log_says_so(tmp_path, caplog):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with caplog.at_level(logging.INFO, "nst_manual"):
        np.testing.assert_array_equal(load_image(tmp_path / "a.gif")[0, 0], [255, 0, 0])
    assert "several pictures: the first is used" in caplog.text


def test_heif_names_the_package_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(bytes(4) + b"ftypheic" + bytes(40))
    with pytest.raises(NSTError, match="HEIF needs `pip install pillow-heif`"):
        load_image(tmp_path / "a.heic")


def test_exif_orientation_is_applied_to_png(tmp_path):
    original = grains(8, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise
    original.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), np.rot90(np.asarray(original), -1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("where", ["EXIF", "XMP", "TIFF", "deep TIFF", "plain TIFF"])
def test_every_orientation_is_turned_upright(tmp_path, where, orientation):
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


def test_16_bit_gray_keeps_its_depth():
    gray = Image.fromarray(np.array([[0, 100, 257, 65535]], np.uint16))
    np.testing.assert_allclose(load_image(gray)[0, :, 0], [0, 100 / 257, 1, 255], rtol=1e-6)


def test_dark_16_bits_stay_dark():
    assert load_image(Image.fromarray(np.full((2, 2), 200, np.uint16))).max() < 1


@pytest.mark.parametrize(("brightest", "white"), [(0.5, 1), (1, 1), (3, 1), (200, 255), (60000, 65535), (1e6, 1e6)])
def test_white_in_floating_point_depends_on_the_brightest_value(brightest, white):
    values = np.array([[0, 0.25, 0.5, brightest]], np.float32)
    image = load_image(Image.fromarray(values))
    np.testing.assert_allclose(image[0, :, 0], np.minimum(values[0] / white, 1) * 255, rtol=1e-5)


def test_floats_that_are_not_finite_are_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(np.full((4, 4, 3), np.nan, np.float32)))
    with pytest.raises(NSTError, match="not finite"):
        load_image(tmp_path / "a.tif")


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
def test_the_transparent_colour_of_a_png_is_transparent(tmp_path, bits, kind, rows, clear, alpha):
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


def test_a_picture_is_made_smaller_but_never_larger():
    assert load_image(grains(80, 60), 40).shape == (30, 40, 3)
    assert load_image(grains(60, 80), 40).shape == (40, 30, 3)
    assert load_image(grains(8, 6), 40).shape == (6, 8, 3)
    assert load_image(grains(1000, 2), 10).shape == (1, 10, 3)


def test_pictures_are_enlarged_only_if_asked():
    assert load_picture(grains(8, 6), 40).rgb.shape == (6, 8, 3)
    assert load_picture(grains(8, 6), 40, enlarge=True).rgb.shape == (30, 40, 3)
    assert load_picture(grains(80, 60), scale=0.5).rgb.shape == (30, 40, 3)
    assert load_picture(grains(80, 60), 40, scale=0.5).rgb.shape == (15, 20, 3)
    assert load_picture(grains(8, 6), scale=1.5, enlarge=True).rgb.shape == (9, 12, 3)


def test_an_absurd_size_is_refused_before_the_picture_is_enlarged():
    with pytest.raises(NSTError, match="choose a smaller size"):
        load_picture(grains(8, 6), 10**9, enlarge=True)


def test_a_dash_is_standard_input(monkeypatch):
    buffer = io.BytesIO()
    grains(8, 6).save(buffer, "PNG")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(buffer.getvalue())))
    np.testing.assert_array_equal(load_image("-"), np.asarray(grains(8, 6)))
    with pytest.raises(NSTError, match="standard input is empty: send one picture to it"):
        load_image("-")


def test_standard_input_has_a_limit(monkeypatch):
    monkeypatch.setattr("nst_manual.pictures.reading.FILE_LIMIT", 100)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(bytes(101))))
    with pytest.raises(NSTError, match="more bytes than a picture should"):
        load_image("-")


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4)), np.zeros((4, 4, 4)), np.zeros((0, 4, 3)), np.full((2, 2, 3), np.nan), np.full((2, 2, 3), "a")],
)
def test_an_array_of_the_wrong_shape_or_kind_is_refused(array):
    with pytest.raises(NSTError, match="array"):
        load_image(array)


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
    grains(80, 60).save(buffer, "PNG")
    (tmp_path / "half.png").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(NSTError, match="can't be read"):
        load_image(tmp_path / "half.png")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    grains(80, 60).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with pytest.raises(NSTError, match="more pixels"):
        load_image(tmp_path / "a.png")


# Python's ways of giving a picture


def as_png(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, io.BytesIO], ids=lambda kind: kind.__name__)
def test_bytes_and_binary_files_are_pictures(wrap):
    loaded = load_picture(wrap(as_png(grains(8, 6)).getvalue()))
    np.testing.assert_array_equal(loaded.rgb, np.asarray(grains(8, 6)))
    assert loaded.name is None
    assert len(loaded.sha256) == 64


def test_a_file_object_is_read_from_its_start_and_stays_open():
    file = as_png(grains(8, 6))  # at its end
    for _ in range(2):
        np.testing.assert_array_equal(load_image(file), np.asarray(grains(8, 6)))


def test_a_stream_that_cannot_be_rewound_is_read_from_where_it_is():
    class Pipe(io.RawIOBase):
        data = as_png(grains(8, 6))

        def readable(self):
            return True

        def read(self, size=-1):
            return self.data.read(min(size, 100))

    Pipe.data.seek(0)
    np.testing.assert_array_equal(load_image(Pipe()), np.asarray(grains(8, 6)))


def test_broken_bytes_and_files_get_one_sentence(tmp_path):
    (tmp_path / "a.png").write_bytes(b"junk")
    with open(tmp_path / "a.png", "rb") as file, pytest.raises(NSTError, match=r"a\.png can't be read as a picture"):
        load_image(file)
    with pytest.raises(NSTError, match="closed file"):
        load_image(file)
    with open(tmp_path / "a.png", encoding="utf-8") as file, pytest.raises(NSTError, match="binary mode"):
        load_image(file)
    for data in (b"junk", b"", io.BytesIO(b"junk")):
        with pytest.raises(NSTError, match="the data can't be read as a picture"):
            load_image(data)


@pytest.mark.parametrize("thing", [None, 5, [1, 2], {}])
def test_what_cannot_be_a_picture_is_refused_with_the_list_of_what_can(thing):
    with pytest.raises(NSTError, match="must be a path, bytes, a binary file, a PIL image or an array, not"):
        load_image(thing)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, bool])
def test_an_array_within_0_and_1_is_refused_rather_than_black(dtype):
    with pytest.raises(NSTError, match=r"within 0 … 1, but must be 0 … 255: multiply them by 255"):
        load_image(np.ones((4, 4, 3), dtype))


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3)), np.ones((4, 4, 3), np.uint8), np.full((4, 4, 3), 1.5)])
def test_dark_arrays_are_pictures(array):
    np.testing.assert_array_equal(load_image(array), array)


def test_an_array_of_16_bits_is_refused_rather_than_white():
    with pytest.raises(NSTError, match=r"go up to 65535, but must be 0 … 255"):
        load_image(np.full((4, 4, 3), 65535, np.uint16))
