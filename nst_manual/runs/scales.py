"""Coarse to fine: a ladder of sizes, each of whose results starts the next (Gatys et al. 2017, section 6).

A network sees as far as its receptive fields reach. In a large picture that is little of it, so that only fine strokes
change; a small picture of the same scene, made first, gives it the large ones, and the next sizes add the fine ones.
"""

from typing import NamedTuple

from ..options import parse_numbers
from ..settings import Settings

COARSEST = 512  # longer side that needs no smaller scale before it: about what VGG-19's deepest tapped layers see twice
LATER = 0.4  # of the first scale's iterations, for each that begins with the result of one


class Scale(NamedTuple):
    """One rung: the result's size there, and how many iterations."""

    height: int
    width: int
    iterations: int


def ladder(settings: Settings, height: int, width: int, least: float = 0.0) -> list[Scale]:
    """The scales up to a result of this size; none below `least` of it, where a picture would be too small."""
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
