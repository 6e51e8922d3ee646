"""EXIF on its way from the content picture to the result. (The recipe's tests are in tests/runs.)"""

import numpy as np
import pytest
from picture_files import FILES, grains
from PIL import Image

from nst_manual.pictures.reading import load_image, load_picture
from nst_manual.pictures.writing import save_image


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
        save_image(grains(8, 6), path, exif=exif.tobytes())
    else:
        grains(8, 6).save(path, exif=exif)
    return load_picture(path)


@pytest.mark.parametrize("source", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize(("suffix", "bits"), FILES)
def test_exif_is_kept_without_orientation_thumbnail_and_outdated_values(tmp_path, source, suffix, bits):
    loaded = photograph(tmp_path / f"a{source}")
    save_image(loaded.rgb, tmp_path / f"b{suffix}", exif=loaded.exif, bits=bits)
    tags, details, place, thumbnail = exif_of(tmp_path / f"b{suffix}")
    assert (tags[0x010F], tags[0x8298]) == ("Maker", "Somebody")
    assert 0x0112 not in tags
    assert thumbnail == {}
    assert float(details[0x829A]) == 0.125
    assert (details[0x9003], details[0xA002], details[0xA001]) == ("2024:02:03 04:05:06", 6, 1)
    assert place == {}
    np.testing.assert_array_equal(load_image(tmp_path / f"b{suffix}").shape, loaded.rgb.shape)


def test_exif_that_is_too_long_loses_the_maker_note_first(tmp_path):
    loaded = photograph(tmp_path / "a.tif", bytes(70_000))
    save_image(loaded.rgb, tmp_path / "b.jpg", exif=loaded.exif)
    tags, details, _, _ = exif_of(tmp_path / "b.jpg")
    assert tags[0x010F] == "Maker"
    assert 0x927C not in details
