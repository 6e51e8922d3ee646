"""The terms of the pixels themselves, in strips of rows: a loss over a whole large picture would need several more.

Each way of cutting is exact: it counts every difference of the loss once. A loss that this table does not know is
computed over the whole picture.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..arrays import Array, Scalar
from ..losses import (
    NINE_POINTS,
    laplacian_loss,
    tv_loss,
    tv_nine_point_loss,
    tv_normalised_loss,
    tv_power_loss,
)
from ..objective import ImageTerm

PIXELS = 1 << 19  # of a strip

Cutting = Callable[[Any, Array, Array, float], Scalar]  # (loss, image, d_image, weight) → value; adds to d_image


def add_image_term(
    term: ImageTerm, image: Array, d_image: Array | None, home: Callable[[Array], Array] = lambda x: x
) -> Scalar:
    """The weighted value; the gradient is added to d_image, if there is one. `home` brings a target to where the image
    is."""
    loss: Any = term.loss
    if isinstance(loss, partial):
        loss = partial(loss.func, **{name: home(value) for name, value in loss.keywords.items()})
    cutting = CUTTINGS.get(getattr(loss, "func", loss), _whole)
    return cutting(loss, image, np.zeros_like(image) if d_image is None else d_image, term.weight)


def strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    """First row, and last row + 1, of strips of about so many pixels; rows in fours, but for the last."""
    rows = max(1, PIXELS // width // 4) * 4
    for first in range(0, height, rows):
        yield first, min(first + rows, height)


def _whole(loss: Any, image: Array, d_image: Array, weight: float) -> Scalar:
    value, gradient = loss(image)
    d_image += weight * gradient
    return weight * value


def _sharing_rows(loss: Any, image: Array, d_image: Array, weight: float) -> Scalar:
    """A sum over pairs of neighbours: strips share a row, and what lies within that row has then been counted twice."""
    height, width, _ = image.shape
    value: Scalar = 0.0
    for first, last in strips(height, width):
        for rows, sign in ((slice(first, last + 1), weight), (slice(last, min(last + 1, height)), -weight)):
            if rows.start < height:
                found, gradient = loss(image[rows])
                value = value + sign * found
                gradient *= sign
                d_image[rows] += gradient
    return value


def _nine_points(loss: Any, image: Array, d_image: Array, weight: float) -> Scalar:
    """tv_nine_point_loss: a strip has its own rows and one more on each side, by which the picture is padded at its
    top and bottom. A padded picture has one row more of diagonal pairs than of others: they belong to the last strip.
    """
    height, width, channels = image.shape
    value: Scalar = 0.0
    for first, last in strips(height, width):
        rows = slice(max(first - 1, 0), last + 1)
        at_top, at_bottom = first == 0, last == height
        x = np.pad(image[rows], ((int(at_top), int(at_bottom)), (1, 1), (0, 0)), "edge")
        d_x = np.zeros_like(x)
        for number, (one, other, share) in enumerate(NINE_POINTS):
            diagonal = number >= 2
            difference = x[other] - x[one]
            if diagonal and not at_bottom:
                difference[-1] = 0  # the next strip's
            own = weight * 2 * share / ((height + diagonal) * (width + diagonal) * channels * 255**2)
            value = value + own * np.sum(difference * difference, dtype=np.float64)
            difference *= 2 * own
            d_x[other] += difference
            d_x[one] -= difference
        d_x[:, 1] += d_x[:, 0]
        d_x[:, -2] += d_x[:, -1]
        if at_top:
            d_x[1] += d_x[0]
        if at_bottom:
            d_x[-2] += d_x[-1]
        d_image[rows] += d_x[int(at_top) : len(d_x) - at_bottom, 1:-1]
    return value


def _bent(loss: Any, image: Array, d_image: Array, weight: float) -> Scalar:
    """laplacian_loss: each row of its differences sees three rows of windows, of four pixels each."""
    target = loss.keywords["target"]
    value: Scalar = 0.0
    for first, last in strips(4 * len(target), image.shape[1]):
        rows = slice(first, last + 8)
        found, gradient = laplacian_loss(image[rows], target[first // 4 : last // 4])
        value = value + weight * found
        gradient *= weight
        d_image[rows] += gradient
    return value


CUTTINGS: Mapping[Any, Cutting] = {
    tv_loss: _sharing_rows,
    tv_power_loss: _sharing_rows,
    tv_normalised_loss: _sharing_rows,
    tv_nine_point_loss: _nine_points,
    laplacian_loss: _bent,
}
