"""Coarse to fine: a ladder of sizes, where each size starts from the result of the one before (Gatys et al. 2017, §6).

The network's receptive fields cover only a small part of a large picture, so that only fine strokes change. A small
picture, made first, gets the broad strokes, and the larger sizes add the fine ones.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..arrays import Array
from ..objective import Style
from ..options import parse_numbers
from ..pictures.alpha import resize
from ..settings import Settings

COARSEST = 512  # longer side up to which one scale suffices: about twice the receptive field of the deepest layers used
LATER = 0.4  # of the first scale's iterations, for each later scale
SMALLEST = 128  # longer side at the foot of a ladder, whose steps are √2
FEWER, FEWEST = 0.8, 0.4  # on a ladder: of the iterations one step below, and of the first scale's at least


class Scale(NamedTuple):
    """The result's size at one scale, its number of iterations, and the margin around it: pixels that are made like the
    others and then cut off, because features are different at the edge of what the network sees."""

    height: int
    width: int
    iterations: int
    margin: int = 0

    @property
    def pixels(self) -> int:
        """Of the image with its margin."""
        return (self.height + 2 * self.margin) * (self.width + 2 * self.margin)

    def framed(self, image: Array) -> Array:
        """The image of that size with a margin, which mirrors it."""
        ends = (self.margin, self.margin)
        return np.pad(image, (ends, ends, *((0, 0),) * (image.ndim - 2)), "reflect") if self.margin else image

    def framed_style(self, style: Style) -> Style:
        """The style whose region, if it has one, has the margin, too."""
        return style if style.region is None else replace(style, region=self.framed(style.region))

    def cut(self, image: Array) -> Array:
        """The image without its margin; one that is flat gets its shape."""
        m, found = self.margin, self._whole(image)
        return found[m : m + self.height, m : m + self.width]

    def enlarged(self, image: Array, larger: "Scale") -> Array:
        """The image with its margin in the size of a larger scale, whose margin is a narrower part of the picture."""
        top = self.margin - larger.margin * self.height / larger.height
        left = self.margin - larger.margin * self.width / larger.width
        found = self._whole(image)
        rows, columns, _ = found.shape
        height, width = (side + 2 * larger.margin for side in (larger.height, larger.width))
        return resize(found, height, width, (left, top, columns - left, rows - top))

    def _whole(self, image: Array) -> Array:
        return image.reshape(self.height + 2 * self.margin, self.width + 2 * self.margin, 3)


def ladder(settings: Settings, height: int, width: int, least: float = 0.0) -> list[Scale]:
    """The scales up to a result of this size. None is smaller than `least`, a fraction of it."""
    longer = max(height, width)
    if settings.scales == "ladder":
        smaller = [longer / 2 ** (k / 2) for k in range(1, 128) if longer / 2 ** (k / 2) >= SMALLEST]
    elif settings.scales == "auto":
        smaller = [longer / 2**k for k in range(1, 64) if longer / 2 ** (k - 1) > COARSEST]
    else:
        smaller = [] if settings.scales == "off" else parse_numbers(settings.scales, "scales")
    sides = sorted({longer, *(side for side in smaller if least * longer <= side < longer)})
    iterations = [settings.iterations, *(_later(settings, number) for number in range(1, len(sides)))]
    return [
        Scale(max(1, round(height * side / longer)), max(1, round(width * side / longer)), count, settings.margin)
        for side, count in zip(sides, iterations, strict=True)
    ]


def _later(settings: Settings, number: int) -> int:
    """The iterations at a scale after the first, 0."""
    if settings.later_iterations is not None:
        return settings.later_iterations
    part = max(FEWER**number, FEWEST) if settings.scales == "ladder" else LATER
    return math.ceil(settings.iterations * part)
