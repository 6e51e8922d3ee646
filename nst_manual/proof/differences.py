"""Slopes by finite differences, the dot test, and relative errors.

Kinks are avoided, not tolerated. While the pattern of open ReLUs and pooling winners stays the same, the network is
affine in the image, so each of the paper's losses is a polynomial of degree at most 4 along any line. Images that share
a pattern form a convex region, so a segment whose two ends share it lies inside. There the five-point central
difference has no truncation error at all, only rounding. A step that leaves the region is shortened.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array
from ..objective import Evaluation
from ..vgg import Network, Pool, Relu, Step, walk_up
from .report import Finding

Region = Callable[[Array], bytes]  # points with equal bytes lie in one convex region without kinks


def dot_test(forward: Callable[[Array], Array], backward: Callable[[Array], Array], x: Array, d_y: Array) -> float:
    """|⟨A x, d_y⟩ − ⟨x, Aᵀ d_y⟩| / (‖A x‖ ‖d_y‖), where A is forward's linear part. A true adjoint gives 0."""
    y = forward(x) - forward(np.zeros_like(x))
    difference = float(np.vdot(y, d_y) - np.vdot(x, backward(d_y)))
    return abs(difference) / float(np.linalg.norm(y) * np.linalg.norm(d_y))


@dataclass(frozen=True)
class Slope:
    """A directional derivative by finite differences."""

    value: float
    step: float
    inside: bool  # whether any step stayed inside the region


def numeric_slope(
    function: Callable[[Array], float], x: Array, direction: Array, region: Region | None = None, step: float = 1.0
) -> Slope:
    """d/dt function(x + t · direction) at t = 0, by five points and the longest step that stays in x's region.

    (f(−2h) − 8 f(−h) + 8 f(h) − f(2h)) / 12h is exact for polynomials of degree 4.
    """
    here = region(x) if region is not None else b""
    for _ in range(60):
        ends = (x - 2 * step * direction, x + 2 * step * direction)
        if region is None or all(region(end) == here for end in ends):
            low, high = function(x - step * direction), function(x + step * direction)
            value = (function(ends[0]) - 8 * low + 8 * high - function(ends[1])) / (12 * step)
            return Slope(float(value), step, True)
        step /= 4
    return Slope(math.nan, step, False)


def gradient_error(
    function: Callable[[Array], tuple[Any, Array]],
    x: Array,
    rng: np.random.Generator,
    region: Region | None = None,
    directions: int = 3,
    pixels: int = 6,
    step: float = 1.0,
) -> float:
    """The largest relative error of a function's gradient: see worst_slope."""
    gradient = function(x)[1]
    return worst_slope(lambda x: float(function(x)[0]), gradient, x, rng, region, directions, pixels, step)[0]


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
    """The largest relative error of a gradient along random directions and in single coordinates, and where it is.

    The error along a direction is relative to its slope or, if larger, to the gradient's norm, the typical slope along
    a random direction. The error in a coordinate is relative to the gradient's largest entry. The first and the last
    coordinate, two corners of a picture, are always among them. If even the shortest step leaves the region, the error
    counts as infinite. `step` is the longest step that is tried; functions that are not polynomials need a short one.
    """

    def error(slope: Slope, analytic: float, scale: float) -> float:
        if not slope.inside:
            return math.inf
        scale = max(abs(slope.value), scale)
        return abs(slope.value - analytic) / scale if scale else 0.0

    largest, typical = float(np.abs(gradient).max()), float(np.linalg.norm(gradient))
    found: list[tuple[float, Finding]] = []
    for number in range(directions):
        direction = rng.standard_normal(x.shape)
        analytic = float(np.vdot(gradient, direction))
        slope = numeric_slope(value_of, x, direction, region, step)
        where = f"random direction {number + 1}"
        found.append((error(slope, analytic, typical), Finding(where, slope.value, analytic, slope.step)))
    for index in {0, x.size - 1, *rng.choice(x.size, min(pixels, x.size), replace=False).tolist()}:
        direction = np.zeros_like(x)
        direction.flat[index] = 1
        slope, analytic = numeric_slope(value_of, x, direction, region, step), float(gradient.flat[index])
        finding = Finding(place(index, x.shape), slope.value, analytic, slope.step)
        found.append((error(slope, analytic, largest), finding))
    return max(found, key=lambda pair: math.inf if math.isnan(pair[0]) else pair[0])


def affine_region(network: Network) -> Region:
    """Which ReLUs are open and which pixels won their pooling: images with equal bytes lie in one affine region."""

    def region(image: Array) -> bytes:
        walk = itertools.islice(walk_up(network, network.engine.to_device(image)), 1, None)  # after the image itself
        return b"".join(pattern(step, saved) for step, (_, _, saved) in zip(network.steps, walk, strict=True))

    return region


def pattern(step: Step, saved: Any) -> bytes:
    """Which ReLUs are open, or which pixels won their pooling; empty for a step that is linear everywhere."""
    if isinstance(step, Relu):
        return np.packbits(saved).tobytes()
    winner = saved[0] if isinstance(step, Pool) else None
    return winner.tobytes() if isinstance(winner, np.ndarray) else b""


def evaluation_error(found: Evaluation, expected: Evaluation) -> float:
    """The largest relative error of the loss, of any term, and of the gradient as a whole."""
    errors = [abs(found.loss - expected.loss) / abs(expected.loss)]
    errors += [abs(found.terms[name] - value) / abs(value) for name, value in expected.terms.items()]
    return max(*errors, relative_error(found.gradient, expected.gradient))


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
