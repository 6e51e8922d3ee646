"""VGG's layers on a GPU, as launches of kernels/: one way to compute in full float32, and one on tensor cores.

Features are (height, width, channels) with a multiple of 64 channels; a mask is (height, width, channels / 8) bytes.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from ...arrays import Array
from ...layers import AVERAGE_SCALES, L2_SCALE
from ..winograd import transformed
from .device import Device, blocks

CHANNELS = 64  # channels of any map are a multiple of it
POOLINGS = {None: 0, "avg": 1, "max": 2, "avg-scaled": 1, "l2": 3}  # the kernels' numbers
SCALES = {**AVERAGE_SCALES, "max": 1.0, "l2": L2_SCALE}
SLABS = 512, 16384  # the fewest and the most pixels whose products FᵀF are added up in float32
WARPS = 1024  # that compute a Gram matrix on tensor cores


class Form(NamedTuple):
    """How features (up) and gradients (down) are stored: the kernels' names for it, and NumPy's."""

    up: str
    down: str
    up_type: Any
    down_type: Any


FORMS = {
    "float32": Form("Single", "Single", np.float32, np.float32),
    "tf32": Form("Tf32", "Tf32", np.float32, np.float32),
    "float16": Form("Half", "Bfloat", np.float16, np.uint16),  # NumPy has no bfloat16
}


class FirstConvolution:
    """The convolution of the image's 3 channels, in float32. Its features are cheap to compute again."""

    def __init__(self, device: Device, form: Form, kernel: Array, bias: Array, padding: str) -> None:
        self.device, self.form, self.replicate = device, form, padding == "replicate"
        self.weights = device.cupy.asarray(np.ascontiguousarray(kernel.reshape(27, -1), np.float32))
        self.bias = device.cupy.asarray(np.asarray(bias, np.float32))

    def up(self, x: Array, rectify: bool = True) -> tuple[Array, Array]:
        height, width, _ = x.shape
        mask = self.device.empty((height, width, self.bias.size // 8), np.uint8)
        return self.rows(x, 0, height, mask, rectify), mask

    def rows(self, x: Array, first: int, last: int, mask: Array | None = None, rectify: bool = True) -> Array:
        """Some rows of ReLU(conv(x) + bias), or of conv(x) + bias."""
        height, width, _ = x.shape
        c = self.bias.size
        y = self.device.empty((last - first, width, c), self.form.up_type)
        grid = blocks(width, 128), last - first, c // 64
        arguments = x, self.weights, self.bias, y, mask, rectify, self.replicate, first, height, width, c
        self.device.launch(f"first<{self.form.up}>", grid, (256,), *arguments)
        return y

    def down(self, d: Array, mask: Array | None) -> Array:
        height, width, c = d.shape
        d_x = self.device.empty((height, width, 3), np.float32)
        arguments = d, mask, self.weights, d_x, self.replicate, height, width, c
        grid = blocks(width, 30), blocks(height, 6)
        self.device.launch(f"first_backward<{self.form.down}>", grid, (256,), *arguments)
        return d_x

    def strips(self, x: Array) -> list[tuple[int, int]]:
        """First and last row of strips whose features fit into the workspace."""
        height, width, _ = x.shape
        count = max(1, self.device.workspace // (width * self.bias.size * np.dtype(self.form.up_type).itemsize))
        return [(row, min(row + count, height)) for row in range(0, height, count)]


class Convolution(ABC):
    """A convolution with bias, ReLU, mask and pooling, and its derivative."""

    def __init__(self, device: Device, form: Form, kernel: Array, bias: Array) -> None:
        self.device, self.form = device, form
        _, _, self.c_in, self.c_out = kernel.shape
        self.bias = device.cupy.asarray(np.asarray(bias, np.float32))

    def up(self, x: Array, pooling: str | None, rectify: bool = True) -> tuple[Array, Array]:
        height, width, _ = x.shape
        c = self.c_out
        y = self.device.empty((height // 2, width // 2, c) if pooling else (height, width, c), self.form.up_type)
        mask = self.device.empty((height, width, c // 8), np.uint8)
        self.convolve(0, (x, None, 0), (self.bias, y, mask, POOLINGS[pooling], rectify, 1.0), (height, width))
        return y, mask

    def down(self, d: Array, mask: Array | None, pooling: str | None) -> Array:
        height, width, _ = d.shape if mask is None else mask.shape
        d_x = self.device.empty((height, width, self.c_in), self.form.down_type)
        ending = None, d_x, None, 0, 0, 0.25 if pooling == "avg" else 1.0
        self.convolve(1, (d, mask, pooling is not None), ending, (height, width))
        return d_x

    @abstractmethod
    def convolve(self, down: int, given: tuple[Any, ...], ending: tuple[Any, ...], shape: tuple[int, int]) -> None:
        """Launches the kernels. Given are x, mask and whether it is pooled; `ending` is what becomes of the sums."""


class Winograd(Convolution):
    """F(4 × 4, 3 × 3), strip by strip: tiles are transformed, multiplied, and transformed back together with bias,
    ReLU, mask and pooling."""

    def __init__(self, device: Device, form: Form, kernel: Array, bias: Array) -> None:
        super().__init__(device, form, kernel, bias)
        self.filters = device.cupy.asarray(transformed(kernel))  # (36, c_out, c_in)

    def convolve(self, down: int, given: tuple[Any, ...], ending: tuple[Any, ...], shape: tuple[int, int]) -> None:
        device, (height, width) = self.device, shape
        c_in, c_out = (self.c_out, self.c_in) if down else (self.c_in, self.c_out)
        across, rows = blocks(width, 4), blocks(height, 4)
        most = max(1, device.workspace // (36 * 4 * across * (c_in + c_out)))
        for first in range(0, rows, most):
            tiles = min(most, rows - first) * across
            v, m = (device.empty((36, tiles, c), np.float32) for c in (c_in, c_out))
            place = first, tiles
            arguments = *given, v, height, width, c_in, *place
            device.launch(f"winograd_in<{down}>", (blocks(tiles, 8), c_in // 32), (32, 8), *arguments)
            device.products(v, self.filters, m, turned="" if down else "b")
            arguments = m, *ending, height, width, c_out, *place
            device.launch(f"winograd_out<{down}>", (blocks(tiles, 8), c_out // 32), (32, 8), *arguments)


class FullPrecision:
    """All products in float32, by cuBLAS."""

    def __init__(self, device: Device, form: Form) -> None:
        self.device, self.form = device, form

    def convolution(self, kernel: Array, bias: Array) -> Winograd:
        return Winograd(self.device, self.form, kernel, bias)

    def multiply(self, features: Array, matrix: Array, out: Array, add: bool = False) -> None:
        """out = matrix · F in each pixel, or out += …"""
        c, flat = features.shape[2], features.reshape(1, -1, features.shape[2])
        self.device.products(flat, matrix.reshape(1, c, c), out.reshape(1, -1, c), turned="b", add=add)

    def partial_grams(self, features: Array) -> Array:
        """(slabs, c, c), which add up to FᵀF."""
        c = features.shape[2]
        flat = features.reshape(-1, c)
        # Four blocks of 64 × 64 results for each multiprocessor, in which cuBLAS cuts each product.
        slab = len(flat) * (c // 64) ** 2 // (4 * self.device.multiprocessors)
        slab = min(max(slab, SLABS[0]), SLABS[1])
        whole, rest = divmod(len(flat), slab)
        partials = self.device.empty((whole + (rest > 0), c, c), np.float32)
        for part, out in (
            (flat[: whole * slab].reshape(-1, slab, c), partials[:whole]),
            (flat[whole * slab :].reshape(1, -1, c), partials[whole:]),
        ):
            if part.size:
                self.device.products(part, part, out, turned="a")
        return partials


class TensorTiles(Convolution):
    """A convolution on tensor cores: each block fetches its pixels with a border once, and the filters tap by tap."""

    def __init__(self, device: Device, form: Form, kernel: Array, bias: Array) -> None:
        super().__init__(device, form, kernel, bias)
        taps = kernel.reshape(9, self.c_in, self.c_out)
        self.filters = [
            device.cupy.asarray(encoded(taps.swapaxes(1, 2), form.up)),  # (tap, to, from)
            device.cupy.asarray(encoded(taps[::-1], form.down)),
        ]

    def convolve(self, down: int, given: tuple[Any, ...], ending: tuple[Any, ...], shape: tuple[int, int]) -> None:
        kind = self.form.down if down else self.form.up
        channels = (self.c_out, self.c_in) if down else (self.c_in, self.c_out)
        convolve(self.device, (kind, kind), (*given, self.filters[down]), (*ending, 0), (*shape, *channels, 9))


class TensorCores:
    """Products of TF32 or 16-bit numbers, summed in float32, by kernels of our own."""

    def __init__(self, device: Device, form: Form) -> None:
        self.device, self.form = device, form

    def convolution(self, kernel: Array, bias: Array) -> TensorTiles:
        return TensorTiles(self.device, self.form, kernel, bias)

    def multiply(self, features: Array, matrix: Array, out: Array, add: bool = False) -> None:
        height, width, c = features.shape
        form = self.form
        beginning, ending = (features, None, 0, matrix), (None, out, None, 0, 0, 1.0, add)
        convolve(self.device, (form.up, form.down), beginning, ending, (height, width, c, c, 1))

    def partial_grams(self, features: Array) -> Array:
        height, width, c = features.shape
        pixels, pairs = height * width, (c // 64) * (c // 64 + 1) // 2
        slab = blocks(blocks(pixels, max(1, WARPS // pairs)), 16) * 16
        units = blocks(pixels, slab)
        partials = self.device.empty((units, c, c), np.float32)
        arguments = features, partials, np.int64(pixels), c, slab
        self.device.launch(f"gram<{self.form.up}>", (blocks(units, 4), pairs), (128,), *arguments)
        return partials


ARITHMETIC = {"float32": FullPrecision, "tf32": TensorCores, "float16": TensorCores}


def convolve(
    device: Device,
    types: tuple[str, str],
    beginning: tuple[Any, ...],
    ending: tuple[Any, ...],
    shape: tuple[int, int, int, int, int],
    tile: tuple[int, int] | None = None,
) -> None:
    """Launches the kernel `conv` for (height, width, c_in, c_out, taps), in blocks of the given or the best tile."""
    height, width, _, c_out, _ = shape
    rows, channels = tile or best_tile(device, height, width, c_out)
    grid = blocks(width, 16), blocks(height, rows), c_out // channels
    name = f"conv<{types[0]}, {types[1]}, {rows}, {channels}>"
    device.launch(name, grid, (256,), *beginning, *ending, *shape, shared=shared_bytes(rows, channels))


def best_tile(device: Device, height: int, width: int, c_out: int) -> tuple[int, int]:
    """The largest tile that leaves a block for each multiprocessor."""
    for rows, channels in device.tiles:
        count = blocks(width, 16) * blocks(height, rows) * c_out // channels
        fits = c_out % channels == 0 and shared_bytes(rows, channels) <= device.most_shared
        if fits and count >= device.multiprocessors:
            return rows, channels
    return device.tiles[-1]


def shared_bytes(rows: int, channels: int) -> int:
    """The shared memory of `conv`: two chunks of pixels and four slices of filters, or a part of the results."""
    return max(4 * 20 * (2 * (rows + 2) * 18 + 4 * channels), 4 * 72 * rows * 16)


def encoded(array: Array, name: str) -> Array:
    """Float32 numbers as the kernels' type of that name stores them."""
    array = np.ascontiguousarray(array, np.float32)
    bits = array.view(np.uint32)
    if name == "Tf32":
        return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    if name == "Bfloat":
        return ((bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    return array.astype(np.float16) if name == "Half" else array
