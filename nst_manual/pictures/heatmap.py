"""A signed field of numbers as a picture: blue below 0, grey at 0, red above 0, with a scale underneath."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..arrays import Array

COLOURS = np.array(((33, 102, 172), (140, 170, 205), (128, 128, 128), (222, 150, 130), (178, 24, 43)), np.float64)
BEYOND = 0.005  # share of pixels that may lie beyond the scale; else single large values would turn all others grey
SMALLEST = 320  # pixels of the shorter side, so that the text has room and single pixels can be seen
LINE, MARGIN, BAR = 16, 8, 14


def signed_picture(field: Array, title: str, unit: str) -> Image.Image:
    """The field (height, width) with its title above and its scale below, enlarged by a whole number if it is small."""
    limit = scale_of(field)
    factor = max(1, round(SMALLEST / min(field.shape)))
    enlarged = np.repeat(np.repeat(coloured(field, limit), factor, 0), factor, 1)
    height, width, _ = enlarged.shape
    font = ImageFont.load_default()
    lines = [*title.splitlines(), f"-{limit:.3g} ... 0 ... +{limit:.3g} {unit}"]
    wide = max(width, *(int(font.getlength(line)) for line in lines)) + 2 * MARGIN
    top = MARGIN + LINE * (len(lines) - 1)
    sheet = Image.new("RGB", (wide, top + height + MARGIN + BAR + LINE + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines[:-1]):
        draw.text((MARGIN, MARGIN // 2 + LINE * number), line, "black", font)
    sheet.paste(Image.fromarray(enlarged), (MARGIN, top))
    ramp = np.broadcast_to(np.linspace(-1, 1, width), (BAR, width))
    sheet.paste(Image.fromarray(coloured(ramp, 1)), (MARGIN, top + height + MARGIN))
    draw.text((MARGIN, top + height + MARGIN + BAR), lines[-1], "black", font)
    return sheet


def scale_of(field: Array) -> float:
    """The value of the strongest colours; all but a few pixels lie within it."""
    limit = float(np.quantile(np.abs(field), 1 - BEYOND))
    return limit or float(np.abs(field).max())


def coloured(field: Array, limit: float) -> Array:
    """(height, width, 3), uint8: the colours from -limit to limit, with 0 in grey."""
    place = np.clip(field / (limit or 1), -1, 1)
    stops = np.linspace(-1, 1, len(COLOURS))
    return np.stack([np.interp(place, stops, channel) for channel in COLOURS.T], axis=-1).round().astype(np.uint8)
