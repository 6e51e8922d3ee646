"""Coarse to fine: a ladder of sizes, where each size starts from the result of the one before (Gatys et al. 2017, §6).

The network's receptive fields cover only a small part of a large picture, so that only fine strokes change. A small
picture, made first, gets the broad strokes, and the larger sizes add the fine ones.
"""

import math
from typing import NamedTuple

from ..options import parse_numbers
from ..settings import Settings

COARSEST = 512  # longer side up to which one scale suffices: about twice the receptive field of the deepest layers used
LATER = 0.4  # of the first scale's iterations, for each later scale
SMALLEST = 128  # longer side at the foot of a ladder, whose steps are √2
FEWER, FEWEST = 0.8, 0.4  # on a ladder: of the iterations one step below, and of the first scale's at least


class Scale(NamedTuple):
    """The result's size at one scale, and its number of iterations."""

    height: int
    width: int
    iterations: int


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
        Scale(max(1, round(height * side / longer)), max(1, round(width * side / longer)), count)
        for side, count in zip(sides, iterations, strict=True)
    ]


def _later(settings: Settings, number: int) -> int:
    """The iterations at a scale after the first, 0."""
    if settings.later_iterations is not None:
        return settings.later_iterations
    part = max(FEWER**number, FEWEST) if settings.scales == "ladder" else LATER
    return math.ceil(settings.iterations * part)
