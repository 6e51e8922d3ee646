"""Labelled sheets: pictures in rows and columns, each with a caption, under a title and headings."""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

SMALLEST = 200  # width of a tile in pixels, so that captions have room and single pixels can be seen
MARGIN = 10
PAPER, INK, GREY = "white", "black", (95, 95, 95)


class Tile(NamedTuple):
    """One picture and its caption: the first line is its name, further lines are details."""

    picture: Image.Image
    caption: str = ""


def sheet(
    title: str, rows: Sequence[Sequence[Tile]], row_titles: Sequence[str] = (), column_titles: Sequence[str] = ()
) -> Image.Image:
    """Columns are as wide as the widest tile. Small pictures are enlarged by a whole number, so pixels stay sharp."""
    tiles = [tile for row in rows for tile in row]
    width = max(tile.picture.width for tile in tiles)
    factor = max(1, -(-SMALLEST // width))
    width *= factor
    heights = [factor * max(tile.picture.height for tile in row) for row in rows]
    size = max(12, min(20, width // 15))
    font, large = ImageFont.load_default(size), ImageFont.load_default(round(1.25 * size))
    line = round(1.35 * size)
    below = line * max(len(tile.caption.splitlines()) for tile in tiles) + MARGIN // 2
    words = [text for title in row_titles for text in title.splitlines()]
    left = MARGIN + (round(max(map(font.getlength, words))) + MARGIN if words else 0)
    top = MARGIN + (round(1.25 * line) + MARGIN // 2 if title else 0) + (line if column_titles else 0)
    columns = max(map(len, rows))
    total = left + columns * (width + MARGIN), top + sum(heights) + len(rows) * (below + MARGIN)
    page = Image.new("RGB", (max(total[0], round(large.getlength(title)) + 2 * MARGIN), total[1]), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN // 2), title, INK, large)
    for column, text in enumerate(column_titles):
        x = left + column * (width + MARGIN) + width // 2
        draw.text((x, top - MARGIN // 2), text, INK, font, anchor="md")
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        y = top + sum(heights[:number]) + number * (below + MARGIN)
        if row_titles:
            draw.text((MARGIN, y), row_titles[number], INK, font)
        for column, tile in enumerate(row):
            x = left + column * (width + MARGIN)
            picture = tile.picture.convert("RGB")
            if factor > 1:
                picture = picture.resize([factor * side for side in picture.size], Image.Resampling.NEAREST)
            page.paste(picture, (x, y))
            for place, text in enumerate(tile.caption.splitlines()):
                draw.text((x, y + height + MARGIN // 2 + place * line), text, GREY if place else INK, font)
    return page
