"""Two plain engines for a GPU, to be trusted where our own kernels are not: they need nothing compiled but CuPy's own.

- `PlainEngine` is the reference itself: NumPy's functions called on CuPy arrays run on the device.
- `ProductsEngine` computes each convolution as nine products of cuBLAS on a padded map, without copying pixels to rows.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import numpy as np

from ...arrays import Array, Scalar
from ...losses import Moments
from ...roots import by_products
from ...vgg import Conv, Operation, Step
from ..reference import Filters, ReferenceEngine
from .device import Device
from .graph import Repeated

DEFAULT_MATH, TF32_MATH = 0, 3  # cuBLAS's modes
BLOCK = 1 << 20  # numbers of each vector that are multiplied at once


class PlainMoments(Moments):
    """Moments on a GPU. Gaussian transport's map is computed by matrix products, because eigenvalues are slow there."""

    engine: "PlainEngine"

    def __new__(cls, engine: "PlainEngine", mean: Array, second: Array) -> Self:
        moments = super().__new__(cls, mean, second)
        moments.engine = engine
        return moments

    def like(self, mean: Array, second: Array) -> Self:
        return type(self)(self.engine, mean, second)

    def covariance(self, floor: Scalar) -> Array:
        """Its ε is at least what rounding may have taken from S: products diverge if an eigenvalue is below 0."""
        norm = np.sqrt(np.sum(self.second * self.second))
        rounding = float(8 * np.finfo(self.engine.dtype).eps / math.sqrt(len(self.mean)))
        return super().covariance(np.maximum(floor, rounding * norm))

    def root(self, matrix: Array) -> Array:
        try:
            return super().root(matrix)
        except ImportError:  # CuPy without cuSOLVER
            on_device: Any = matrix
            return np.asarray(super().root(on_device.get()), like=matrix)

    def transport_map(self, half: Array, covariance: Array, floor: Scalar) -> tuple[Array, Scalar]:
        inverse, trace = by_products(half @ covariance @ half)
        return half @ inverse @ half, trace


class PlainEngine(ReferenceEngine):
    """The reference's operations on CuPy arrays: in float64, or else in float32, which is more than tf32 and float16.

    Its GPU is CuPy's current device.
    """

    name, optimizer = "cuda plain", "lbfgs"
    precisions: tuple[str, ...] = ("float64", "float32", "tf32", "float16")
    recordable: tuple[str, ...] = ()  # precisions whose evaluations can become CUDA graphs
    bytes_per_pixel: Mapping[str, int] = {"float64": 4000, "float32": 2000, "tf32": 2000, "float16": 2000}
    tiles: tuple[tuple[int, int], ...] = ()  # the sizes of the blocks that its convolutions are cut into
    kind: type[PlainMoments] = PlainMoments  # of moments
    rounds = False  # whether products of small whole numbers are rounded

    def __init__(self, precision: str, cupy: Any, make_device: Callable[..., Device] = Device) -> None:
        super().__init__(precision)
        self.cupy = cupy
        self.device = make_device(cupy, precision in self.recordable, self.bytes_per_pixel[precision])
        self.vectors = PlainVectors

    def to_device(self, array: Any, dtype: Any = None) -> Array:
        self.device.use()  # whatever is computed in a thread begins with this, or with `repeated`
        on_device: Array = self.cupy.asarray(array, dtype=dtype or self.dtype)
        return on_device

    def to_host(self, array: Array) -> Array:
        on_host: Array = self.cupy.asnumpy(array)
        return on_host

    def free_memory(self) -> int | None:
        return int(self.cupy.cuda.runtime.memGetInfo()[0])

    def moments(self, features: Array, weights: Array | None) -> Moments:
        return self.kind(self, *super().moments(features, weights))

    def known_moments(self, mean: Array, second: Array) -> Moments:
        return self.kind(self, *super().known_moments(mean, second))

    def repeated(self, function: Callable[[Array], Any]) -> Callable[[Array], Any]:
        return Repeated(self.device, function)


class ProductsEngine(PlainEngine):
    """The same in float32, but convolutions by cuBLAS: in TF32 where float32 is not asked for."""

    name = "cuda products"
    precisions = ("float32", "tf32", "float16")

    def operation(self, step: Step, filters: Filters, pooling: str) -> Operation:
        if not isinstance(step, Conv) or step.c_in == 3:
            return super().operation(step, filters, pooling)
        kernel, bias = map(self.to_device, filters[step.layer])
        turned = self.cupy.ascontiguousarray(kernel[::-1, ::-1].transpose(0, 1, 3, 2))

        def up(x: Array) -> tuple[Array, Any]:
            y = self.convolve(x, kernel)
            y += bias
            return y, None

        return Operation(step.name, up, lambda d_y, _: self.convolve(d_y, turned))

    def convolve(self, x: Array, kernel: Array) -> Array:
        """A padded map's pixels in one row: for each tap the pixels that meet it lie side by side, further along.

        Each row of results has two too many at its end, which wrap around the border and are dropped.
        """
        height, width, c_in = x.shape
        wide, c_out = width + 2, kernel.shape[3]
        count = height * wide
        padded = self.device.empty((count + 2 * wide + 2, c_in), np.float32)
        padded[...] = 0
        padded[: count + 2 * wide].reshape(height + 2, wide, c_in)[1:-1, 1:-1] = x
        y = self.device.empty((1, count, c_out), np.float32)
        with self.rounding():
            for i, j in np.ndindex(3, 3):
                start = i * wide + j
                pixels = padded[start : start + count].reshape(1, count, c_in)
                self.device.products(pixels, kernel[i, j].reshape(1, c_in, c_out), y, add=(i, j) != (0, 0))
        cut: Array = self.cupy.ascontiguousarray(y.reshape(height, wide, c_out)[:, :width])
        return cut

    @contextmanager
    def rounding(self) -> Iterator[None]:
        """cuBLAS rounds to TF32 within, where that is wanted."""
        cublas, handle = self.cupy.cuda.cublas, self.cupy.cuda.device.get_cublas_handle()
        cublas.setMathMode(handle, DEFAULT_MATH if self.precision == "float32" else TF32_MATH)
        try:
            yield
        finally:
            cublas.setMathMode(handle, DEFAULT_MATH)


class PlainVectors:
    """The sums over a search's vectors by CuPy, in few and large pieces: the peer of optimise/vectors.py."""

    def __init__(self, image: Array, history: int) -> None:
        self.history, self.size = history, image.size

    def products(
        self, rows: Array, images: tuple[Array, Array], gradients: tuple[Array, Array], free: Array | None
    ) -> Array:
        (x, x_new), (g, g_new), m = images, gradients, self.history
        masked = 0 if free is None else m + 2
        if free is not None:
            free[...] = ((x_new > 0) | (g_new < 0)) & ((x_new < 255) | (g_new > 0))
        table = np.zeros_like(rows, shape=(2 * m + 3, masked + 3), dtype=np.float64)
        for start in range(0, self.size, BLOCK):
            part = slice(start, start + BLOCK)
            old, one, other, g_one, g_other = (a[..., part].astype(np.float64) for a in (rows, x, x_new, g, g_new))
            left = np.concatenate([old, (g_other - g_one)[None], g_other[None], (other - one)[None]])
            right = left[2 * m :]
            if free is not None:
                right = np.concatenate([left[m : 2 * m + 2] * free[part], right])
            table += left @ right.swapaxes(0, 1)
        return table

    def combine(
        self, weights: Array, rows: Array, gradient: Array, free: Array | None, image: Array | None, out: Array
    ) -> None:
        out[...] = gradient * float(weights[-1])
        for number, weight in enumerate(weights[:-1]):
            out += rows[number] * float(weight)
        if free is not None:
            out *= free
        if image is not None:
            out[...] = np.clip(image + out, 0, 255) - image

    def squares(self, gradient: Array, image: Array, trial: Array) -> Array:
        g, step = gradient.astype(np.float64), trial.astype(np.float64) - image
        return np.concatenate([(g * g).sum().reshape(1), (step * step).sum().reshape(1)])
