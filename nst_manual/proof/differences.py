"""Slopes by finite differences, the dot test, and relative errors.

Kinks are avoided, not tolerated. While the pattern of open ReLUs and pooling winners stays the same, the network is
affine in the image, so each of the paper's losses is a polynomial of degree at most 4 along any line. Images that share
a pattern form a convex region, so a segment whose two ends share it lies inside. There the five-point central
difference has no truncation error at all, only rounding. A step that leaves the region is shortened.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..objective import Evaluation
from ..vgg import Network, Pool, Relu, Step, walk_up
from .report import Finding

POINTS = (-2, -1, 1, 2)  # of the five-point difference, whose middle has the weight 0
SHORT = 1e-4  # a step for a layer that is no polynomial
SHORT_OF_IMAGE = 1e-2  # a step for pixels, 0 … 255, seen through such layers
Region = Callable[[Array], bytes]  # points with equal bytes lie in one convex region without kinks


def dot_test(forward: Callable[[Array], Array], backward: Callable[[Array], Array], x: Array, d_y: Array) -> float:
    """|⟨A x, d_y⟩ − ⟨x, Aᵀ d_y⟩| / (‖A x‖ ‖d_y‖), where A is forward's linear part. A true adjoint gives 0."""
    y = forward(x) - forward(np.zeros_like(x))
    difference = float(np.vdot(y, d_y) - np.vdot(x, backward(d_y)))
    return abs(difference) / float(np.linalg.norm(y) * np.linalg.norm(d_y))


class Slope(NamedTuple):
    """A directional derivative by finite differences, NaN if no step stayed inside the region."""

    value: Any
    step: float


def five_points(values: Sequence[Any], step: float) -> Any:
    """The slope from a function's values at POINTS times the step; exact for polynomials of degree 4."""
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)


def numeric_slope(
    function: Callable[[Array], Any], x: Array, direction: Array, region: Region | None = None, step: float = 1.0
) -> Slope:
    """d/dt function(x + t · direction) at t = 0, by five points and the longest step that stays in x's region.

    The function gives one number, or an array of them.
    """
    here = region(x) if region is not None else b""
    for _ in range(60):
        points = [x + k * step * direction for k in POINTS]
        if region is None or region(points[0]) == here == region(points[-1]):
            return Slope(five_points([function(point) for point in points], step), step)
        step /= 4
    return Slope(math.nan, step)


def lines(
    shape: tuple[int, ...], rng: np.random.Generator, directions: int, entries: Iterable[int]
) -> Iterator[tuple[str, Array, bool]]:
    """(name, direction, whether it is a single entry): random directions, then the entries with these flat indices."""
    for number in range(directions):
        yield f"random direction {number + 1}", rng.standard_normal(shape), False
    for index in entries:
        line = np.zeros(shape)
        line.flat[index] = 1
        yield place(index, shape), line, True


def worst_slopes(
    values_of: Callable[[Array], Array],
    gradients: Sequence[Array],
    x: Array,
    along: Iterable[tuple[str, Array, bool]],
    region: Region | None = None,
    step: float = 1.0,
) -> list[tuple[float, Finding]]:
    """For each of several functions of x, the largest relative error of its gradient along the lines, and where it is.

    The error along a direction is relative to the gradient's norm, the typical slope along a random direction; the
    error in a single entry is relative to the gradient's largest. If even the shortest step leaves the region, the
    error counts as infinite. `step` is the longest step that is tried: only polynomials allow a long one.
    """
    found: list[list[tuple[float, Finding]]] = [[] for _ in gradients]
    for where, line, single in along:
        slope = numeric_slope(values_of, x, line, region, step)
        for value, gradient, errors in zip(np.broadcast_to(slope.value, len(found)), gradients, found, strict=True):
            analytic = float(np.vdot(gradient, line))
            scale = float(np.abs(gradient).max() if single else np.linalg.norm(gradient)) or 1.0
            error = abs(float(value) - analytic) / scale
            finding = Finding(where, float(value), analytic, slope.step)
            errors.append((math.inf if math.isnan(error) else error, finding))
    return [max(errors, key=lambda pair: pair[0]) for errors in found]


def worst_slope(
    value_of: Callable[[Array], float],
    gradient: Array,
    x: Array,
    rng: np.random.Generator,
    region: Region | None = None,
    directions: int = 3,
    pixels: int = 6,
    step: float = 1.0,
) -> tuple[float, Finding]:
    """The same for one function, along random directions, in random entries, and in the first and the last one."""
    entries = {0, x.size - 1, *rng.choice(x.size, min(pixels, x.size), replace=False).tolist()}
    along = lines(x.shape, rng, directions, entries)
    return worst_slopes(lambda x: np.array([value_of(x)]), [gradient], x, along, region, step)[0]


def gradient_error(
    function: Callable[[Array], tuple[Any, Array]], x: Array, rng: np.random.Generator, *more: Any, **options: Any
) -> float:
    """The largest relative error of a function's gradient; the other arguments are those of worst_slope."""
    return worst_slope(lambda x: float(function(x)[0]), function(x)[1], x, rng, *more, **options)[0]


def affine_region(network: Network) -> Region:
    """Which ReLUs are open and which pixels won their pooling: images with equal bytes lie in one affine region."""

    def region(image: Array) -> bytes:
        walk = itertools.islice(walk_up(network, network.engine.to_device(image)), 1, None)  # after the image itself
        return b"".join(pattern(step, saved) for step, (_, _, saved) in zip(network.steps, walk, strict=True))

    return region


def pattern(step: Step, saved: Any) -> bytes:
    """Which ReLUs are open, or which pixels won their pooling; empty for a step without kinks."""
    if isinstance(step, Relu):
        return np.packbits(saved).tobytes()
    winner = saved[0] if isinstance(step, Pool) else None
    return winner.tobytes() if isinstance(winner, np.ndarray) and winner.dtype == np.uint8 else b""


def is_curved(step: Step, pooling: str) -> bool:
    """Whether a step is not even piecewise linear. (L2 pooling's kink, at a window of 0, is symmetric: no harm.)"""
    return isinstance(step, Pool) and pooling == "l2"


def longest_step(network: Network) -> float:
    """The first step to try: where features are no polynomials of the image, only a short one is free of truncation."""
    return SHORT_OF_IMAGE if any(is_curved(step, network.pooling) for step in network.steps) else 1.0


def evaluation_error(found: Evaluation, expected: Evaluation) -> float:
    """The largest relative error of the loss, of any term, and of the gradient as a whole."""
    errors = [abs(found.loss - expected.loss) / abs(expected.loss)]
    errors += [abs(found.terms[name] - value) / abs(value) for name, value in expected.terms.items()]
    return max(*errors, relative_error(found.gradient, expected.gradient))


def evaluations_differ(found: Evaluation, expected: Evaluation) -> tuple[float, Finding]:
    """The error of an evaluation, and where its gradient is most wrong."""
    return evaluation_error(found, expected), largest_difference(found.gradient, expected.gradient)


def relative_error(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def largest_difference(found: Array, expected: Array) -> Finding:
    """Where two gradients differ most."""
    index = int(np.abs(found - expected).argmax())
    return Finding(place(index, expected.shape), float(expected.flat[index]), float(found.flat[index]))


def place(index: int, shape: tuple[int, ...]) -> str:
    """The position of one number in a picture or in features, in words."""
    if len(shape) != 3:
        return f"place {index}"
    row, column, channel = np.unravel_index(index, shape)
    return f"row {row}, column {column}, channel {channel}"
