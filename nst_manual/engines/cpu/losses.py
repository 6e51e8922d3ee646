"""What the losses need of features, for the CPU's engine: `losses.py` with sums and products in pieces, over threads.

How a map is cut depends on its size alone, and pieces are added up in their order: no bit depends on the threads.
"""

from typing import NamedTuple

import numpy as np

from ...arrays import Array, Place, Scalar
from ...losses import Moments
from .memory import aligned
from .threads import Phase, Workers, scratch

PRODUCT = 1 << 18  # numbers of a feature map in one part of a product FᵀF; a smaller part would cost more than it sums
PIECE = 1 << 17  # in one piece of anything else
BLOCK = 128  # channels of S at once


def slices(count: int, size: int) -> list[slice]:
    """0 … count in slices of even size, at most that."""
    size = -(-count // -(-count // size))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def pieces(rows: int, numbers: int) -> list[slice]:
    """Rows, of so many numbers each, that are worked on together; at least two pieces."""
    return slices(rows, max(1, min(PIECE // numbers, -(-rows // 2))))


def add(d: Array, d_features: Array, workers: Workers) -> None:
    """d += d_features."""
    channels = d.shape[2]
    goal, more = d.reshape(-1, channels), d_features.reshape(-1, channels)
    workers.run(lambda piece: np.add(goal[piece], more[piece], out=goal[piece]), pieces(*goal.shape))


class Difference(NamedTuple):
    """A content term's weight · (F − P), which is computed when it is added to a gradient. Until then, the features
    stay, as they do for a style term."""

    features: Array
    target: Array
    weight: float
    place: Place | None  # where the target lies; None is everywhere

    def own(self, whole: Array) -> Array:
        return whole if self.place is None else whole[self.place]

    @property
    def pieces(self) -> list[slice]:
        height, width, n = self.target.shape
        return pieces(height, width * n)

    def of(self, rows: slice) -> Array:
        """F − P of some rows, in scratch memory."""
        target = self.target[rows]
        return np.subtract(self.own(self.features)[rows], target, out=scratch("a", target.size).reshape(target.shape))


def content(difference: Difference, workers: Workers) -> Scalar:
    """weight · losses.content_loss."""
    parts = difference.pieces
    squares = np.empty(len(parts))

    def task(number: int) -> None:
        part = difference.of(parts[number])
        squares[number] = np.sum(np.square(part, out=part), dtype=np.float64)

    workers.run(task, range(len(parts)))
    return difference.weight * np.sum(squares) / 2


def drawn(d: Array | None, difference: Difference, workers: Workers) -> Array:
    """d + the difference, in place."""
    total = np.zeros(difference.features.shape, np.float32) if d is None else d
    goal = difference.own(total)

    def task(rows: slice) -> None:
        part = difference.of(rows)
        part *= np.float32(difference.weight)
        goal[rows] += part

    workers.run(task, difference.pieces)
    return total


def moments(features: Array, weights: Array | None, workers: Workers) -> Moments:
    """losses.moments. Products are made of parts of the rows, and, as S is symmetric, of blocks of 128 × 128 channels
    on its diagonal and above; parts are added up in float64."""
    n = features.shape[2]
    flat = features.reshape(-1, n)
    root = None if weights is None else np.sqrt(weights).reshape(-1, 1)
    channels = slices(n, BLOCK)
    blocks = [(i, j) for number, i in enumerate(channels) for j in channels[number:]]
    parts = slices(len(flat), max(n, PRODUCT // n))
    sums, products = np.empty((len(parts), n), np.float32), np.empty((len(parts), n, n), np.float32)
    mean, second = np.empty(n), np.empty((n, n))
    count = len(flat) if root is None else 1
    ones = np.ones((1, parts[0].stop), np.float32)

    def factor(rows: slice, of: slice) -> Array:
        some = flat[rows, of]
        return some if root is None else some * root[rows]

    def multiply(item: tuple[tuple[int, slice], slice, slice]) -> None:
        (number, rows), i, j = item
        left = factor(rows, i)
        right = left if i == j else factor(rows, j)  # NumPy notices if both are the same: half the work
        np.matmul(left.T, right, out=products[number, i, j])
        if i == j:
            t = ones[:, : len(left)] if root is None else root[rows].T
            np.matmul(t, left, out=sums[number : number + 1, i])

    def total(block: tuple[slice, slice]) -> None:
        i, j = block
        np.sum(products[:, i, j], axis=0, dtype=np.float64, out=second[i, j])
        second[i, j] /= count
        if i == j:
            mean[i] = np.sum(sums[:, i], axis=0, dtype=np.float64) / count
        else:
            second[j, i] = second[i, j].T

    work = [(part, *block) for part in enumerate(parts) for block in blocks]
    workers.run_phases(Phase(multiply, work), Phase(total, blocks))
    return Moments(mean, second)


class Pull(NamedTuple):
    """How a style loss pulls at features F: t · (F · matrix + shift)."""

    matrix: Array
    shift: Array | None  # None is 0
    weights: Array | None  # t, a column with a number for each position; None is 1

    @classmethod
    def of(cls, positions: Array, weights: Array | None, d_mean: Array | None, d_second: Array) -> "Pull":
        """`positions` is any array of the features' height and width."""
        t = 1 / (positions.shape[0] * positions.shape[1]) if weights is None else 1.0
        matrix = np.multiply(d_second, 2 * t, out=aligned(d_second.shape), casting="same_kind")
        shift = None if d_mean is None else (t * d_mean).astype(np.float32)
        return cls(matrix, shift, None if weights is None else weights.reshape(-1, 1))

    def finish(self, product: Array, rows: slice) -> None:
        """F · matrix of some rows becomes their gradient, in place."""
        if self.shift is not None:
            product += self.shift
        if self.weights is not None:
            product *= self.weights[rows]


def pulled(d: Array | None, features: Array, pull: Pull, workers: Workers) -> Array:
    """d + losses.moments_backward, in place: a product as large as the features is never in memory beside both."""
    total = workers.memory.empty(features.shape) if d is None else d
    flat, gradient = (array.reshape(-1, features.shape[2]) for array in (features, total))

    def task(rows: slice) -> None:
        part = gradient[rows]
        product = part if d is None else scratch("a", part.size).reshape(part.shape)
        np.matmul(flat[rows], pull.matrix, out=product)
        pull.finish(product, rows)
        if d is not None:
            part += product

    workers.run(task, pieces(*flat.shape))
    return total
