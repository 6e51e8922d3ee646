"""The first convolution, of the image itself: 27 inputs per pixel are too few for Winograd, one product does them all.

Its features are the largest array of the network, 256 bytes per pixel, and cheap to compute: the walk down computes
them again, strip by strip, instead of keeping them, or a mask, or a style loss's pull at them.
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ...arrays import Array
from ...layers import replicate_backward
from .losses import Pull
from .memory import aligned
from .products import multiply
from .threads import Workers, scratch

PIXELS = 4096  # roughly, in a strip of rows: its features take 1 MB


class FirstImage(NamedTuple):
    """What the first layer saves: the image, from which its features can be computed again."""

    x: Array


class Pending(NamedTuple):
    """A gradient in the first layer's features that is not computed yet: d and the pulls add up to it."""

    d: Array | None
    pulls: tuple[Pull, ...]


class FirstLayer:
    """One layer's filters as a matrix, (9 · c_in + 1, c_out) with the bias as last row; with its ReLU."""

    def __init__(self, kernel: Array, bias: Array, padding: str = "zero") -> None:
        _, _, self.c_in, self.c_out = kernel.shape
        self.replicate = padding == "replicate"
        self.matrix = aligned((9 * self.c_in + 1, self.c_out))
        self.matrix[:-1], self.matrix[-1] = kernel.reshape(-1, self.c_out), bias
        # Row ((i, j), c) as in `matrix`: what an output gives back to the pixel (i − 1, j − 1) beside it.
        self.turned = self.matrix[:-1]

    def up(self, x: Array, workers: Workers) -> tuple[Array, FirstImage]:
        """ReLU(conv(x) + bias)."""
        x = np.ascontiguousarray(x)
        height, width, _ = x.shape
        y = workers.memory.empty((height, width, self.c_out))
        workers.run(lambda rows: self._features(x, rows, y[rows[0] : rows[1]]), strips(height, width))
        return y, FirstImage(x)

    def down(self, d_y: Array | Pending, saved: FirstImage, workers: Workers) -> Array:
        """d_x, with ReLU's mask and the pulls at features that are computed again."""
        given, pulls = (d_y.d, d_y.pulls) if isinstance(d_y, Pending) else (d_y, ())
        x = saved.x
        height, width, c = x.shape
        all_rows = strips(height, width)
        d_x = np.zeros((height + 2, width + 2, c), np.float32)
        edges: dict[tuple[int, int], Array] = {}

        def task(rows: tuple[int, int]) -> None:
            pixels = (rows[1] - rows[0]) * width
            y = scratch("a", pixels * self.c_out).reshape(-1, width, self.c_out)
            d = scratch("b", pixels * self.c_out).reshape(pixels, self.c_out)
            self._features(x, rows, y)
            flat = y.reshape(d.shape)
            if not pulls:
                d[...] = 0
            for number, pull in enumerate(pulls):
                part = scratch("c", d.size).reshape(d.shape) if number else d
                multiply(flat[None], pull.matrix[None], part[None])
                pull.finish(part, slice(rows[0] * width, rows[1] * width))
                if number:
                    d += part
            if given is not None:
                d += given[rows[0] : rows[1]].reshape(d.shape)
            d *= flat > 0
            # Each output gives to the nine pixels around it. The first and last row of `sums` belong to other strips.
            gifts = np.matmul(self.turned, d.T, out=scratch("c", len(self.turned) * pixels).reshape(-1, pixels))
            gifts = gifts.reshape(3, 3, c, -1, width)
            sums = np.zeros((c, rows[1] - rows[0] + 2, width + 2), np.float32)
            for i, j in np.ndindex(3, 3):
                sums[:, i : i + gifts.shape[3], j : j + width] += gifts[i, j]
            sums = sums.transpose(1, 2, 0)
            d_x[rows[0] + 1 : rows[1] + 1] = sums[1:-1]
            edges[rows] = sums[[0, -1]]

        workers.run(task, all_rows)
        for first, last in all_rows:  # in their order: sums of floats depend on it
            d_x[first] += edges[first, last][0]
            d_x[last + 1] += edges[first, last][1]
        return replicate_backward(d_x) if self.replicate else d_x[1:-1, 1:-1]

    def _features(self, x: Array, rows: tuple[int, int], y: Array) -> None:
        """Rows of ReLU(conv(x) + bias) into y."""
        height, width, c = x.shape
        first, last = rows
        padded = np.zeros((last - first + 2, width + 2, c), np.float32)
        y0, y1 = max(first - 1, 0), min(last + 1, height)
        padded[y0 - first + 1 : y1 - first + 1, 1:-1] = x[y0:y1]
        if self.replicate:
            if first == 0:
                padded[0] = padded[1]
            if last == height:
                padded[-1] = padded[-2]
            padded[:, 0], padded[:, -1] = padded[:, 1], padded[:, -2]
        columns = scratch("c", (last - first) * width * len(self.matrix)).reshape(last - first, width, -1)
        down, right, one = padded.strides
        windows = as_strided(padded, (last - first, width, 3, 3 * c), (down, right, down, one))
        columns[:, :, :-1].reshape(windows.shape)[...] = windows
        columns[:, :, -1] = 1
        flat = y.reshape(-1, self.c_out)
        multiply(columns.reshape(1, len(flat), -1), self.matrix[None], flat[None])
        np.maximum(flat, scratch("zero", flat.size, zero=True).reshape(flat.shape), out=flat)


def strips(height: int, width: int) -> list[tuple[int, int]]:
    """First and last row of each strip. They depend on the size alone, not on the threads."""
    count = max(1, PIXELS // width)
    return [(row, min(row + count, height)) for row in range(0, height, count)]
