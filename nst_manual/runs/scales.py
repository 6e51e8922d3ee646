"""Coarse to fine: a ladder of sizes, where each size starts from the result of the one before (Gatys et al. 2017, §6).

The network's receptive fields cover only a small part of a large picture, so that only fine strokes change. A small
picture, made first, gets the broad strokes, and the larger sizes add the fine ones.
"""

from typing import NamedTuple

from ..options import parse_numbers
from ..settings import Settings

COARSEST = 512  # longer side up to which one scale suffices: about twice the receptive field of the deepest layers used
LATER = 0.4  # of the first scale's iterations, for each later scale


class Scale(NamedTuple):
    """The result's size at one scale, and its number of iterations."""

    height: int
    width: int
    iterations: int


def ladder(settings: Settings, height: int, width: int, least: float = 0.0) -> list[Scale]:
    """The scales up to a result of this size. None is smaller than `least`, a fraction of it."""
    longer = max(height, width)
    if settings.scales == "auto":
        sides = [longer / 2**k for k in range(64) if k == 0 or longer / 2 ** (k - 1) > COARSEST]
    elif settings.scales == "off":
        sides = [longer]
    else:
        sides = [*(side for side in parse_numbers(settings.scales, "scales") if side < longer), longer]
    sides = sorted({side for side in sides if side == longer or side >= least * longer})
    later = -(-settings.iterations * LATER // 1)  # rounded up
    return [
        Scale(
            max(1, round(height * side / longer)),
            max(1, round(width * side / longer)),
            settings.iterations if number == 0 else int(later),
        )
        for number, side in enumerate(sides)
    ]
