"""Labelled sheets of pictures."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from nst_manual.pictures.sheets import SMALLEST, Tile, sheet


def count(page, colour):
    return int((np.asarray(page) == ImageColor.getrgb(colour)).all(2).sum())


@pytest.mark.parametrize(("width", "factor"), [(SMALLEST, 1), (SMALLEST + 1, 1), (70, 3), (1, SMALLEST)])
def test_pictures_are_shown_pixel_by_pixel(width, factor):
    tiles = [Tile(Image.new("RGB", (width, 3), "red"), "one\nand more"), Tile(Image.new("RGB", (width, 3), "blue"))]
    for rows in ([tiles], [[tile] for tile in tiles]):
        page = sheet("title", rows)
        assert count(page, "red") == count(page, "blue") == 3 * width * factor**2


def test_titles_and_captions_are_there_and_nothing_is_cut_off():
    tile = Tile(Image.new("RGB", (200, 90), "red"), "caption\nsecond line")
    plain = sheet("", [[Tile(tile.picture)] * 2] * 2)
    labelled = sheet("a title that is longer than both pictures together " * 2, [[tile] * 2] * 2, ["up", "down"], "ab")
    assert labelled.width > plain.width
    assert labelled.height > plain.height
    paper = np.asarray(labelled) == 255
    assert paper[[0, -1]].all()
    assert paper[:, [0, -1]].all()
    assert count(labelled, "red") == 4 * 200 * 90
    assert count(labelled, "black") > 100


def test_rows_may_be_of_unequal_length():
    tile = Tile(Image.new("RGB", (200, 90), "red"))
    assert count(sheet("", [[tile] * 3, [tile]]), "red") == 4 * 200 * 90
