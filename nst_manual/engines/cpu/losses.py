"""The paper's losses for the CPU's engine: `losses.py` with sums and products in parts, spread over threads.

How a map is cut depends on its size alone, and parts are summed in their order: no bit depends on the threads.
"""

import numpy as np

from ...arrays import Array, Scalar
from .first_layer import Pending
from .memory import aligned
from .threads import Phase, Workers

PRODUCT = 1 << 18  # numbers of a feature map in one part of a Gram product: a smaller one would cost more than it sums
PIECE = 1 << 17  # in one part of anything else
BLOCK = 128  # channels of a Gram matrix at once


def slices(count: int, size: int) -> list[slice]:
    """0 … count in slices of even size, at most that."""
    size = -(-count // -(-count // size))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def gram_parts(positions: int, channels: int) -> list[slice]:
    """The positions that each make one product."""
    return slices(positions, max(channels, PRODUCT // channels))


def pieces(flat: Array) -> list[slice]:
    """Rows of a flat map, to be worked at one by one, in two pieces at least."""
    return slices(len(flat), max(1, min(PIECE // flat.shape[1], -(-len(flat) // 2))))


def add(d: Array, d_features: Array, workers: Workers) -> None:
    """d += d_features."""
    channels = d.shape[2]
    goal, more = d.reshape(-1, channels), d_features.reshape(-1, channels)
    workers.run(lambda piece: np.add(goal[piece], more[piece], out=goal[piece]), pieces(goal))


def content_loss(features: Array, target: Array, weight: float, workers: Workers) -> tuple[Scalar, Array]:
    """losses.content_loss."""
    n = features.shape[2]
    flat, goal = features.reshape(-1, n), target.reshape(-1, n)
    difference, parts = workers.memory.empty(flat.shape), pieces(flat)
    squares = np.empty(len(parts))

    def task(number: int) -> None:
        part = np.subtract(flat[parts[number]], goal[parts[number]], out=difference[parts[number]])
        squares[number] = np.sum(part * part, dtype=np.float64)
        part *= np.float32(weight)

    workers.run(task, range(len(parts)))
    return weight * np.sum(squares) / 2, difference.reshape(features.shape)


class Gram:
    """FᵀF of a flat feature map F, or (T F)ᵀ(T F) with a column of guides T: over parts of its rows, and for blocks of
    128 × 128 channels on the diagonal and above, since the matrix is symmetric."""

    def __init__(self, flat: Array, guide: Array | None) -> None:
        self.flat, self.guide = flat, guide
        channels = slices(flat.shape[1], BLOCK)
        self.blocks = [(i, j) for number, i in enumerate(channels) for j in channels[number:]]
        self.parts = gram_parts(*flat.shape)
        self.products = np.empty((len(self.parts), flat.shape[1], flat.shape[1]), np.float32)

    def phase(self) -> Phase:
        """All products."""
        return Phase(self._multiply, [(part, *block) for part in enumerate(self.parts) for block in self.blocks])

    def _multiply(self, item: tuple[tuple[int, slice], slice, slice]) -> None:
        (number, rows), i, j = item
        left = self._factor(rows, i)
        right = left if i == j else self._factor(rows, j)  # NumPy notices if both are the same: half the work
        np.matmul(left.T, right, out=self.products[number, i, j])

    def _factor(self, rows: slice, channels: slice) -> Array:
        some = self.flat[rows, channels]
        return some if self.guide is None else some * self.guide[rows]

    def mean(self, i: slice, j: slice) -> Array:
        """One block of G/M, or of G_T: the parts' sum in float64."""
        total = np.sum(self.products[:, i, j], axis=0, dtype=np.float64)
        if self.guide is None:
            total /= len(self.flat)
        mean: Array = np.asarray(total, np.float32)
        return mean


def gram(features: Array, guide: Array | None, workers: Workers) -> Array:
    """losses.gram, or losses.guided_gram."""
    n = features.shape[2]
    found = Gram(features.reshape(-1, n), None if guide is None else guide.reshape(-1, 1))
    workers.run_phases(found.phase())
    matrix = np.empty((n, n), np.float32)
    for i, j in found.blocks:
        matrix[i, j] = found.mean(i, j)
        matrix[j, i] = matrix[i, j].T
    return matrix


def style_loss(
    features: Array, guide: Array | None, target: Array, weight: float, waits: bool, workers: Workers
) -> tuple[Scalar, Array | Pending]:
    """losses.style_loss, or losses.guided_style_loss; its gradient, T² · F · matrix, may wait for the walk down."""
    n = features.shape[2]
    flat = features.reshape(-1, n)
    found = Gram(flat, None if guide is None else guide.reshape(-1, 1))
    matrix, sums = aligned((n, n)), np.empty(len(found.blocks))
    factor = np.float32(weight / (n**2 * (len(flat) if guide is None else 1)))

    def compare(number: int) -> None:
        i, j = found.blocks[number]
        difference = found.mean(i, j) - target[i, j]
        sums[number] = np.sum(difference * difference, dtype=np.float64) * (1 if i == j else 2)
        np.multiply(difference, factor, out=matrix[i, j])
        if i != j:
            matrix[j, i] = matrix[i, j].T

    squares = None if guide is None else (guide**2).reshape(-1, 1)
    phases = [found.phase(), Phase(compare, range(len(found.blocks)))]
    gradient: Array | Pending = Pending(None, ((matrix, squares),))
    if not waits:
        whole = workers.memory.empty(flat.shape)
        gradient = whole.reshape(features.shape)

        def pull(piece: slice) -> None:
            np.matmul(flat[piece], matrix, out=whole[piece])
            if squares is not None:
                whole[piece] *= squares[piece]

        phases.append(Phase(pull, pieces(flat)))
    workers.run_phases(*phases)
    return weight * np.sum(sums) / (4 * n**2), gradient
