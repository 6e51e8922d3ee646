"""What a search computes over its vectors, as kernels: the counterpart of the optimiser's class for NumPy, Vectors."""

from typing import Any

import numpy as np

from ...arrays import Array
from .device import Device, blocks

TILE = 128  # numbers of each vector that a block has in shared memory at a time
MOST_SHARED = 96 << 10  # bytes of it, where the card has as much
BLOCKS_EACH = 4  # blocks per multiprocessor


class DeviceVectors:
    """For a search from a flat `image` that remembers `history` pairs. Its methods are those of Vectors."""

    def __init__(self, device: Device, image: Array, history: int) -> None:
        self.device, self.history, self.size = device, history, image.size
        self.kind = "float" if image.dtype == np.float32 else "double"
        self.blocks = min(blocks(self.size, TILE), BLOCKS_EACH * device.multiprocessors)
        self.weights: Any = device.empty((2 * history + 1,), np.float64)
        self.partials = device.empty((0,), np.float64)

    def products(
        self, rows: Array, images: tuple[Array, Array], gradients: tuple[Array, Array], free: Array | None
    ) -> Array:
        m, height = self.history, 2 * self.history + 3
        columns = 3 if free is None else m + 5
        tile = TILE
        most = min(MOST_SHARED, self.device.most_shared)
        while tile > 1 and 8 * (height + columns) * (tile + 1) > most:
            tile //= 2
        parts = min(tile, max(1, 256 // (height * blocks(columns, 4))))
        size = height * columns
        if self.partials.size != self.blocks * parts * size:
            self.partials = self.device.empty((self.blocks * parts * size,), np.float64)
        total = self.device.empty((height, columns), np.float64)
        arguments = rows, *images, *gradients, free, self.partials, np.int64(self.size), m, tile, parts
        shared = 8 * (height + columns) * (tile + 1)
        self.device.launch(f"products<{self.kind}>", (self.blocks,), (256,), *arguments, shared=shared)
        self.device.launch("add_partials", (size,), (256,), self.partials, self.blocks * parts, size, total)
        return total

    def combine(
        self, weights: Array, rows: Array, gradient: Array, free: Array | None, image: Array | None, out: Array
    ) -> None:
        self.weights[: len(weights)].set(np.asarray(weights, np.float64))
        arguments = rows, gradient, self.weights, free, image, out, np.int64(self.size), len(weights) - 1
        self.device.launch(f"combine<{self.kind}>", (blocks(self.size, 256),), (256,), *arguments)

    def squares(self, gradient: Array, image: Array, trial: Array) -> Array:
        sums, total = self.device.empty((self.blocks, 2), np.float64), self.device.empty((2,), np.float64)
        arguments = gradient, image, trial, sums, np.int64(self.size)
        self.device.launch(f"squares<{self.kind}>", (self.blocks,), (256,), *arguments)
        self.device.launch("add_partials", (2,), (256,), sums, self.blocks, 2, total)
        return total
