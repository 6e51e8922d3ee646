"""The sums over vectors that L-BFGS and Adam need, with NumPy, in pieces that suit a CPU.

An engine can replace this class by one with the same methods for its own device (`engine.vectors`).
"""

from typing import Any

import numpy as np

from ..arrays import Array
from .records import PIXEL_RANGE

# Blocks stay in the CPU's cache. Products are too small for BLAS to wake its threads, which would keep cores busy for a
# while afterwards.
CHUNK = 3072  # numbers in one product
CHUNKS = 4  # chunks in one block
STRIP = 384  # numbers in one sum of rows


class Vectors:
    """The sums of a search with the flat image `image` that remembers `history` pairs."""

    def __init__(self, image: Array, history: int) -> None:
        self.history = history
        self.blocks = blocks(image.size)
        most = max(chunks * width for _, chunks, width in self.blocks)
        self.buffer = np.zeros_like(image, shape=((2 * history + 3) * most,), dtype=np.float64)
        self.spare = np.zeros_like(image, shape=(most,))

    def products(
        self, rows: Any, images: tuple[Array, Array], gradients: tuple[Array, Array], free: Array | None
    ) -> Array:
        """Dot products in float64 in one pass: the 2m rows, y, g′ and s, times the columns y, g′ and s.

        `images` are x and x′, `gradients` g and g′, s = x′ − x and y = g′ − g. `rows[:, place]` is a part of all rows.
        With bounds, `free` receives which pixels of x′ can move along −g′. The table then starts with m + 2 more
        columns: all y and g′, over the free pixels only. Its last three columns are filled in the rows of y, g′ and s
        only.
        """
        m, (image, trial), (gradient, trial_gradient) = self.history, images, gradients
        count, masked = 2 * m + 3, 0 if free is None else m + 2
        low, high = PIXEL_RANGE
        table = np.zeros_like(self.buffer, shape=(count, masked + 3))
        for place, chunks, width in self.blocks:
            if free is not None:
                pixels, slopes = trial[place], trial_gradient[place]
                free[place] = ((pixels > low) | (slopes < 0)) & ((pixels < high) | (slopes > 0))
            block = self.buffer[: chunks * count * width].reshape(chunks, count, width)
            shape = (chunks, width)
            block[:, : 2 * m].swapaxes(0, 1)[...] = rows[:, place].reshape(2 * m, *shape)
            y, g, s = (block[:, 2 * m + row] for row in range(3))
            g[...] = trial_gradient[place].reshape(shape)
            np.subtract(g, gradient[place].reshape(shape), out=y)
            np.subtract(trial[place].reshape(shape), image[place].reshape(shape), out=s, dtype=np.float64)
            new = block[:, 2 * m :]
            if free is None:
                table += np.matmul(block, new.swapaxes(1, 2)).sum(axis=0)
                continue
            table[2 * m :, masked:] += np.matmul(new, new.swapaxes(1, 2)).sum(axis=0)
            columns = block[:, m : 2 * m + 2]
            columns *= free[place].reshape(chunks, 1, width)
            table[:, :masked] += np.matmul(block, columns.swapaxes(1, 2)).sum(axis=0)
        return table

    def combine(
        self, weights: Array, rows: Any, gradient: Array, free: Array | None, image: Array | None, out: Array
    ) -> None:
        """out = Σ weights · (rows, gradient) at free pixels, 0 elsewhere; a single weight is the gradient's.

        With an image, out is shortened so that image + out stays within the pixels' range.
        """
        np.multiply(gradient, float(weights[-1]), out=out)
        if len(weights) > 1:
            own = np.asarray(weights[:-1], dtype=out.dtype, like=out)
            for place, _, _ in self.blocks:
                block, spare = rows[:, place], self.spare[: place.stop - place.start]
                whole = spare.size // STRIP * STRIP
                if whole:
                    strips = block[:, :whole].reshape(len(block), -1, STRIP).swapaxes(0, 1)
                    np.matmul(own, strips, out=spare[:whole].reshape(-1, STRIP))
                if whole < spare.size:
                    np.matmul(own, block[:, whole:], out=spare[whole:])
                out[place] += spare
        if free is not None:
            out *= free
        if image is not None:
            out += image
            np.clip(out, *PIXEL_RANGE, out=out)
            out -= image

    def squares(self, gradient: Array, image: Array, trial: Array) -> Array:
        """gᵀg and ‖x′ − x‖², in float64."""
        square, moved = (np.zeros_like(self.buffer, shape=(1,)) for _ in range(2))
        for place, chunks, width in self.blocks:
            part = self.buffer[: chunks * width]
            np.square(gradient[place], out=part, dtype=np.float64)
            square += part.sum()
            np.subtract(trial[place], image[place], out=part, dtype=np.float64)
            np.square(part, out=part)
            moved += part.sum()
        return np.concatenate([square, moved])


def blocks(size: int) -> list[tuple[slice, int, int]]:
    """(slice of the vector, chunks, numbers per chunk) of each block: whole chunks first, then the rest."""
    whole = size // CHUNK * CHUNK
    starts = range(0, whole, CHUNKS * CHUNK)
    ends = [*starts[1:], whole]
    made = [(slice(a, b), (b - a) // CHUNK, CHUNK) for a, b in zip(starts, ends, strict=False)]
    if whole < size:
        made.append((slice(whole, size), 1, size - whole))
    return made
