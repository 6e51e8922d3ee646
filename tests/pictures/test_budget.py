"""Small files that would take minutes or gigabytes to decode are refused by their header and their parts."""

import io
import struct
import sys
import time
import zlib

import numpy as np
import pytest
from picture_files import grains, png, tiff
from PIL import Image

from nst_manual import NSTError
from nst_manual.cli.main import main
from nst_manual.pictures.reading import load_picture

PIECES, CLAIM = "far more pieces", "far too few for a picture"


def jpeg(**options):
    file = io.BytesIO()
    grains(64, 64).save(file, "JPEG", **options)
    return file.getvalue()


def scanned(times):
    data = jpeg(progressive=True)
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + times * last + data[-2:]


def gif(extra):
    file = io.BytesIO()
    Image.new("P", (64, 64)).save(file, "GIF")
    data = file.getvalue()
    start = 13 + 3 * (2 << (data[10] & 7))
    return data[:start] + extra + data[start:]


def directory(entries, room=b""):
    """A TIFF file's beginning: one directory, then room."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4) + room


def claiming(width, height, depth, kind):
    """A PNG file of so many pixels, but without them."""
    whole = png(1, 1, depth, kind, bytes(8))
    header = whole[12:16] + struct.pack(">II", width, height) + whole[24:29]
    return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


HOSTILE = {
    "a JPEG of a thousand scans": (scanned(1000), PIECES),
    "a JPEG of tiny segments": (jpeg()[:2] + 9000 * b"\xff\xfe\0\2" + jpeg()[2:], PIECES),
    "a JPEG of filling": (jpeg()[:2] + 200_000 * b"\xff" + jpeg()[2:], PIECES),
    "a PNG of tiny chunks": (png(1, 1, 8, 2, b"abc", 30_000 * [(b"abCd", b"")]), PIECES),
    "a GIF of comments": (gif(30_000 * b"\x21\xfe\x01a\0"), PIECES),
    "a TIFF of many tags": (directory(6000 * [(40000, 3, 1, 1)]), PIECES),
    "a TIFF of many rational numbers": (directory([(282, 5, 100_000, 8)], bytes(800_000)), PIECES),
    "a TIFF of rational numbers in its EXIF": (
        directory([(34665, 4, 1, 26)], struct.pack("<HHHII", 1, 33434, 5, 100_000, 8) + bytes(800_000)),
        PIECES,
    ),
    "a TIFF that is read many times over": (
        directory([(40000 + k, 7, 800_000, 8) for k in range(20)], bytes(800_000)),
        "can't be read",
    ),
    "a PNG of 80 million pixels": (claiming(9000, 9000, 16, 6), CLAIM),
    "a TIFF of 80 million pixels": (tiff(np.ones((4, 4, 3), np.float32), tags={256: 9000, 257: 9000}), CLAIM),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_small_file_that_would_take_long_is_refused_at_once(name):
    data, words = HOSTILE[name]
    began = time.process_time()
    with pytest.raises(NSTError, match=words):
        load_picture(data)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("data", [jpeg(progressive=True), scanned(20), gif(b"\x21\xfe\x01a\0"), jpeg(comment=b"a")])
def test_what_pictures_have_is_within_the_budget(data):
    assert load_picture(data).rgb.shape == (64, 64, 3)


def test_a_large_mask_of_few_bytes_is_a_picture():
    file = io.BytesIO()
    Image.new("1", (6000, 5000), 1).save(file, "PNG")
    assert load_picture(file.getvalue(), 60).rgb.min() == 255


def test_decoding_is_held_against_max_memory_before_it_begins(tmp_path, capsys):
    grains(400, 300).save(tmp_path / "small.png")
    Image.new("RGB", (3000, 2000)).save(tmp_path / "large.png")
    small, large, out = (str(tmp_path / f"{name}.png") for name in ("small", "large", "out"))
    limit = ["--max-memory", "80M", "-o", out]
    for words in ([large, small], [small, large], [small, small, "--style-mask", large]):
        assert main(["transfer", *words, *limit]) == 2
        said = capsys.readouterr().err
        assert "decoding its 3000×2000 pixels would take about 102 MB of memory, more than 84 MB" in said


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not say how much of a file is on the disk")
def test_a_sparse_file_counts_as_what_it_takes_on_the_disk(tmp_path):
    data = tiff(np.ones((4, 4, 3), np.float32), tags={256: 8000, 257: 8000, 278: 8000, 279: 8000 * 8000 * 12, 273: 999})
    with open(tmp_path / "a.tif", "wb") as file:
        file.write(data)
        file.truncate(8000 * 8000 * 12 + 999)
    with pytest.raises(NSTError, match="claims 8000×8000 pixels"):
        load_picture(tmp_path / "a.tif")
