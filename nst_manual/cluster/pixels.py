"""The terms of the pixels themselves, of a part of the picture.

Each term is a sum over neighbours. Those of a part are the ones that begin in it, row and column: a part and the few
rows and columns behind it, minus what lies within these few alone.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array, Scalar
from ..errors import NSTError
from ..losses import (
    NINE_POINTS,
    laplacian,
    laplacian_loss,
    tv_loss,
    tv_nine_point_loss,
    tv_normalised_loss,
    tv_power_loss,
)
from ..tiles.plan import Interval
from .grid import Rectangle

MARGIN = 8  # pixels that any of the terms reaches to the right and down: the Laplacian's three windows of four


class Pixels(NamedTuple):
    """A term: its weighted value for a window of the picture of that size, and its gradient added to the second."""

    add: Callable[[Array, Array, Rectangle, tuple[int, int]], Scalar]
    reach: int = 1


def pixel_term(
    term: Pixels, weight: float, image: Array, d_image: Array, window: Rectangle, own: Rectangle, size: tuple[int, int]
) -> Scalar:
    """The part's weighted value; its gradient is added to d_image. Image and gradient are those of the window, which
    has the part and, where there are, MARGIN more pixels to the right and below."""
    value: Scalar = 0.0
    axes = (_signed(part, length, term.reach) for part, length in zip((own.rows, own.columns), size, strict=True))
    for (rows, one), (columns, other) in product(*map(list, axes)):
        area = Rectangle(rows, columns)
        place = area.within(window)
        gradient = np.zeros_like(image[place])
        value = value + weight * one * other * term.add(image[place], gradient, area, size)
        gradient *= weight * one * other
        d_image[place] += gradient
    return value


def pixels_of(loss: Any, content: Array | None = None, window: Rectangle | None = None) -> Pixels:
    """How a loss of the pixels is computed in parts. The Laplacian's needs the content picture of the window."""
    if getattr(loss, "func", loss) is laplacian_loss:
        return Pixels(partial(_bent, content, window), MARGIN)
    if loss is tv_nine_point_loss:
        return Pixels(_nine_points)
    if loss in PLAIN:
        return Pixels(partial(_plain, loss))
    raise NSTError(f"{getattr(loss, '__name__', loss)} can't be computed in parts: leave --cluster out")


PLAIN = (tv_loss, tv_power_loss, tv_normalised_loss)  # sums that don't depend on the picture's size


def _signed(part: Interval, length: int, reach: int) -> Iterator[tuple[Interval, float]]:
    """A part with what lies behind it, and that alone, which is taken away."""
    yield Interval(part.start, min(part.stop + reach, length)), 1.0
    if part.stop < length:
        yield Interval(part.stop, min(part.stop + reach, length)), -1.0


def _plain(loss: Any, image: Array, d_image: Array, area: Rectangle, size: tuple[int, int]) -> Scalar:
    value, gradient = loss(image)
    d_image += gradient
    return value


def _nine_points(image: Array, d_image: Array, area: Rectangle, size: tuple[int, int]) -> Scalar:
    """tv_nine_point_loss: along the diagonals, the picture's repeated edge counts, too."""
    (height, width), channels = size, image.shape[2]
    top, left = int(area.rows.start == 0), int(area.columns.start == 0)
    bottom, right = int(area.rows.stop == height), int(area.columns.stop == width)
    x = np.pad(image, ((top, bottom), (left, right), (0, 0)), "edge")
    d_x, value = np.zeros_like(x), 0.0
    inner = slice(top, len(x) - bottom), slice(left, x.shape[1] - right)
    for number, (one, other) in enumerate(NEIGHBOURS):
        diagonal = number >= 2
        rows, columns = inner[0] if number == 0 else slice(None), inner[1] if number == 1 else slice(None)
        seen: Array = x[rows, columns]
        d_seen: Array = d_x[rows, columns]
        difference = seen[other] - seen[one]
        share = 2 * NINE_POINTS[number][2] / ((height + diagonal) * (width + diagonal) * channels * 255**2)
        value = value + share * np.sum(difference * difference, dtype=np.float64)
        difference *= 2 * share
        d_seen[other] += difference
        d_seen[one] -= difference
    d_x[:, left] += d_x[:, 0] if left else 0
    d_x[:, x.shape[1] - 1 - right] += d_x[:, -1] if right else 0
    d_x[top] += d_x[0] if top else 0
    d_x[len(x) - 1 - bottom] += d_x[-1] if bottom else 0
    d_image += d_x[inner]
    return value


NEIGHBOURS: Sequence[tuple[Any, Any]] = (  # across, down, and along both diagonals
    (np.s_[:, :-1], np.s_[:, 1:]),
    (np.s_[:-1], np.s_[1:]),
    (np.s_[:-1, :-1], np.s_[1:, 1:]),
    (np.s_[:-1, 1:], np.s_[1:, :-1]),
)


def _bent(content: Any, window: Any, image: Array, d_image: Array, area: Rectangle, size: tuple[int, int]) -> Scalar:
    if min(image.shape[:2]) < MARGIN + 4:
        return 0.0
    value, gradient = laplacian_loss(image, laplacian(content[area.within(window)]))
    d_image += gradient
    return value
