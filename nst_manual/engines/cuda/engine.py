"""The GPU's engine: CuPy, cuBLAS and kernels of our own (kernels.cu). How it works: docs/cuda-engine.md.

- float32 by Winograd, tf32 and float16 on tensor cores: cuda_layers.py. In float16, features have 16 bits with 10 of
  fraction, gradients 16 with 7 and float32's range; all sums are float32, those of the losses float64.
- float64 is the reference's own steps on CuPy arrays.
- Nothing is fetched before the loss is: values stay on the device, and the launches run ahead of it.
- Evaluations of one size are recorded once and repeated as a CUDA graph where that works: cuda_graph.py.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ...arrays import Array, Scalar
from ...errors import NSTError
from ...losses import GuidedTarget, content_loss, guided_style_loss, style_loss
from ..needs import Needs
from ..reference import Loss, ReferenceEngine
from .device import Device, blocks
from .graph import Repeated
from .layers import ARITHMETIC, CHANNELS, FORMS, POOLINGS, FirstConvolution, encoded
from .probe import NoGPU, Trouble, why_no_gpu
from .vectors import DeviceVectors

TENSOR_CORES = 80  # the oldest compute capability, 8.0, whose tensor cores know TF32 and bfloat16
RECORDABLE = ("tf32", "float16")  # as CUDA graphs: CuPy lets no call of cuBLAS into one
BYTES_PER_PIXEL = {"float64": 4000, "float32": 800, "tf32": 800, "float16": 560}  # with lbfgs; docs/cuda-engine.md
CONTENT_BLOCKS = 1024  # at most, whose sums make the content loss


class Filters(NamedTuple):
    """A layer in the device's form, and its own numbers of channels, which there are multiples of 64."""

    convolution: Any
    c_in: int
    c_out: int


class Pending(NamedTuple):
    """A gradient in the first layer's features F that is not computed yet: d + F · matrix."""

    d: Array | None
    matrix: Array


class FirstSaved(NamedTuple):
    """Of the first layer: its image, from which F can be computed again, and F's mask."""

    x: Array
    mask: Array


def open_cuda(precision: str) -> ReferenceEngine:
    """The engine of that precision; raises NoGPU where there is no GPU for it."""
    return PlainCudaEngine(precision) if precision == "float64" else CudaEngine(precision)


class PlainCudaEngine(ReferenceEngine):
    """NumPy's functions called on CuPy arrays run on the device, so every step is the reference's own."""

    name = "cuda"
    precisions: tuple[str, ...] = ("float64",)

    def __init__(self, precision: str = "float64") -> None:
        if precision not in self.precisions:
            raise NSTError(f"the cuda engine computes in {', '.join(self.precisions)}, not in {precision}")
        if trouble := why_no_gpu():
            raise NoGPU(trouble)
        self.precision = precision
        self.dtype = np.dtype(np.float64 if precision == "float64" else np.float32)
        self.cupy = importlib.import_module("cupy")
        self.device = Device(self.cupy, recordable=precision in RECORDABLE, bytes_per_pixel=BYTES_PER_PIXEL[precision])
        self.vectors = partial(DeviceVectors, self.device)

    def needs(self) -> Needs | int:
        return self.device.bytes_per_pixel

    def to_device(self, array: Any) -> Array:
        on_device: Array = self.cupy.asarray(array, dtype=self.dtype)
        return on_device

    def to_host(self, array: Array) -> Array:
        on_host: Array = self.cupy.asnumpy(array)
        return on_host

    def repeated(self, function: Callable[[Array], Any]) -> Callable[[Array], Any]:
        return Repeated(self.device, function)


class CudaEngine(PlainCudaEngine):
    """float32, tf32 and float16."""

    precisions = ("float32", "tf32", "float16")

    def __init__(self, precision: str = "float32") -> None:
        super().__init__(precision)
        if precision != "float32" and self.device.capability < TENSOR_CORES:
            found = f"{self.device.capability // 10}.{self.device.capability % 10}"
            reason = f"{precision} needs a GPU of compute capability 8.0, and this one's is {found}"
            raise NoGPU(Trouble(reason, "choose --precision float32"))
        self.form = FORMS[precision]
        self.arithmetic: Any = ARITHMETIC[precision](self.device, self.form)
        self.own_losses: dict[Any, Callable[..., tuple[Scalar, Any]]] = {
            style_loss: self._style_loss,
            guided_style_loss: self._guided_style_loss,
            content_loss: self._content_loss,
        }

    def to_host(self, array: Array) -> Array:
        if array.dtype == np.uint16:  # a gradient in bfloat16
            array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return super().to_host(array)

    def prepare(self, kernel: Array, bias: Array) -> Filters:
        _, _, c_in, c_out = kernel.shape
        most_in, most_out = 3 if c_in == 3 else _padded(c_in), _padded(c_out)
        wide = np.zeros((3, 3, most_in, most_out), np.float32)
        wide[:, :, :c_in, :c_out] = kernel
        wide_bias = np.zeros(most_out, np.float32)
        wide_bias[:c_out] = bias
        if c_in == 3:
            return Filters(FirstConvolution(self.device, self.form, wide, wide_bias), c_in, c_out)
        return Filters(self.arithmetic.convolution(wide, wide_bias), c_in, c_out)

    def conv_relu(self, x: Array, filters: Filters) -> tuple[Array, Any]:
        if filters.c_in == 3:
            x = self.cupy.ascontiguousarray(x)
            y, mask = filters.convolution.up(x)
            return y[:, :, : filters.c_out], FirstSaved(x, mask)
        y, mask = filters.convolution.up(self._features(x), None)
        return y[:, :, : filters.c_out], mask

    def conv_relu_backward(self, d_y: Any, saved: Any, filters: Filters) -> Array:
        if isinstance(saved, FirstSaved):
            return self._first_backward(d_y, saved, filters)
        d_x: Array = filters.convolution.down(self._gradient(d_y), saved, None)
        return d_x[:, :, : filters.c_in]

    def conv_relu_pool(self, x: Array, filters: Filters, pooling: str) -> tuple[Array, Any]:
        if filters.c_in == 3:
            return super().conv_relu_pool(x, filters, pooling)
        y, mask = filters.convolution.up(self._features(x), pooling)
        return y[:, :, : filters.c_out], (mask, pooling)

    def conv_relu_pool_backward(self, d_y: Array, saved: Any, filters: Filters) -> Array:
        if filters.c_in == 3:
            return super().conv_relu_pool_backward(d_y, saved, filters)
        d_x: Array = filters.convolution.down(self._gradient(d_y), *saved)
        return d_x[:, :, : filters.c_in]

    def prepare_linear(self, kernel: Array, bias: Array) -> Filters:
        return self.prepare(kernel, bias)

    def conv(self, x: Array, filters: Filters) -> tuple[Array, Any]:
        if filters.c_in == 3:
            y, _ = filters.convolution.up(self.cupy.ascontiguousarray(x), rectify=False)
        else:
            y, _ = filters.convolution.up(self._features(x), None, rectify=False)
        return y[:, :, : filters.c_out], None

    def conv_backward(self, d_y: Array, saved: Any, filters: Filters) -> Array:
        d = self._gradient(d_y)
        d_x: Array = filters.convolution.down(d, None) if filters.c_in == 3 else filters.convolution.down(d, None, None)
        return d_x[:, :, : filters.c_in]

    def pool(self, x: Array, pooling: str) -> tuple[Array, Any]:
        n, x = x.shape[2], self._features(x)
        height, width, c = x.shape
        y = self.device.empty((height // 2, width // 2, c), self.form.up_type)
        winners = self.device.empty(y.shape, np.uint8) if pooling == "max" else None
        arguments = x, y, winners, POOLINGS[pooling], height, width, c
        self.device.launch(f"pool<{self.form.up}>", (blocks(y.size, 256),), (256,), *arguments)
        return y[:, :, :n], (winners, pooling, (height, width))

    def pool_backward(self, d_y: Array, saved: Any) -> Array:
        winners, pooling, (height, width) = saved
        n, d = d_y.shape[2], self._gradient(d_y)
        d_x = self.device.empty((height, width, d.shape[2]), self.form.down_type)
        arguments = d, winners, d_x, POOLINGS[pooling], height, width, d.shape[2]
        self.device.launch(f"pool_backward<{self.form.down}>", (blocks(d_x.size, 256),), (256,), *arguments)
        return d_x[:, :, :n]

    def loss(self, loss: Loss, features: Array, saved: Any, target: Any, weight: float) -> tuple[Scalar, Any]:
        own = self.own_losses.get(loss)
        if own is not None:
            return own(features, saved, target, weight)
        value, gradient = loss(features.astype(np.float32), target.astype(np.float32))
        return weight * value, self._gradient(weight * gradient)[:, :, : features.shape[2]]

    def gram(self, features: Array) -> Array:
        n, (height, width) = features.shape[2], features.shape[:2]
        return self._gram(self._features(features), height * width)[:n, :n]

    def guided_gram(self, features: Array, guide: Array) -> Array:
        n = features.shape[2]
        return self._guided_gram(self._features(features), guide)[:n, :n]

    def join(self, d: Any, d_features: Any) -> Any:
        if isinstance(d_features, Pending):
            d, d_features = d_features, d
        if isinstance(d, Pending):
            if isinstance(d_features, Pending):
                joined = self.join(d.matrix[None], d_features.matrix[None])[0]
                return Pending(self.join(d.d, d_features.d), joined)
            return Pending(self.join(d.d, d_features), d.matrix)
        if d is None or d_features is None:
            return d_features if d is None else d
        n, d, d_features = d.shape[2], self._gradient(d), self._gradient(d_features)
        self.device.launch(f"join<{self.form.down}>", (blocks(d.size, 256),), (256,), d, d_features, np.int64(d.size))
        return d[:, :, :n]

    def _first_backward(self, d_y: Any, saved: FirstSaved, filters: Filters) -> Array:
        """d_x, with a pending part of d_y from features that are computed again, strip by strip."""
        given, matrix = d_y if isinstance(d_y, Pending) else (d_y, None)
        height, width, _ = saved.x.shape
        d = None if given is None else self._gradient(given)
        if matrix is not None:
            whole = self.device.empty((height, width, len(matrix)), self.form.down_type) if d is None else d
            for first, last in filters.convolution.strips(saved.x):
                features = filters.convolution.rows(saved.x, first, last)
                self.arithmetic.multiply(features, matrix, whole[first:last], d is not None)
                del features
            d = whole
        d_x: Array = filters.convolution.down(d, saved.mask)
        return d_x

    def _style_loss(self, features: Array, saved: Any, target: Array, weight: float) -> tuple[Scalar, Any]:
        """losses.style_loss; for the first layer, the product that gives its gradient waits for the walk down."""
        height, width, n = features.shape
        features = self._features(features)
        gram = self._gram(features, height * width)
        value, matrix = self._style(gram, target, weight / n**2, weight / (n**2 * height * width))
        if isinstance(saved, FirstSaved):
            return value, Pending(None, matrix)
        return value, self._product(features, matrix)[:, :, :n]

    def _guided_style_loss(
        self, features: Array, saved: Any, target: GuidedTarget, weight: float
    ) -> tuple[Scalar, Any]:
        """losses.guided_style_loss."""
        n, features = features.shape[2], self._features(features)
        gram = self._guided_gram(features, target.guide)
        value, matrix = self._style(gram, target.gram, weight / n**2, weight / n**2)
        gradient = self._product(features, matrix)
        return value, self._scaled(self.form.down, gradient, target.guide**2)[:, :, :n]

    def _style(self, gram: Array, target: Array, unit: float, factor: float) -> tuple[Scalar, Array]:
        """unit/4 · Σ (gram − target)², and factor · (gram − target) as the kernels multiply by it."""
        device, c = self.device, len(gram)
        matrix, sums = device.empty((c, c), self.form.down_type), device.empty((c,), np.float64)
        arguments = gram, self._wide(target), factor, matrix, sums, c
        device.launch(f"style<{self.form.down}>", (c,), (256,), *arguments)
        return device.add_up(sums, unit / 4), matrix

    def _product(self, features: Array, matrix: Array) -> Array:
        product = self.device.empty(features.shape, self.form.down_type)
        self.arithmetic.multiply(features, matrix, product)
        return product

    def _content_loss(self, features: Array, saved: Any, target: Array, weight: float) -> tuple[Scalar, Any]:
        n, features, target = features.shape[2], self._features(features), self._features(target)
        device, form = self.device, self.form
        gradient, count = device.empty(features.shape, form.down_type), min(blocks(features.size, 256), CONTENT_BLOCKS)
        sums = device.empty((count,), np.float64)
        arguments = features, target, weight, gradient, sums, np.int64(features.size)
        device.launch(f"content<{form.up}, {form.down}>", (count,), (256,), *arguments)
        return device.add_up(sums, weight / 2), gradient[:, :, :n]

    def _gram(self, features: Array, pixels: float) -> Array:
        """FᵀF / pixels."""
        c = features.shape[2]
        partials = self.arithmetic.partial_grams(features)
        gram = self.device.empty((c, c), np.float32)
        arguments = partials, gram, len(partials), np.float64(pixels), c
        self.device.launch("gram_sum", (c // 32, c), (32, 8), *arguments)
        return gram

    def _guided_gram(self, features: Array, guide: Array) -> Array:
        pixels = guide.size  # whose root brings the guide, Σ T² = 1, near to 1
        return self._gram(self._scaled(self.form.up, features, guide * pixels**0.5), pixels)

    def _scaled(self, form: str, features: Array, weights: Array) -> Array:
        scaled = self.device.empty(features.shape, features.dtype)
        arguments = features, self.cupy.ascontiguousarray(weights, np.float32), scaled, np.int64(scaled.size)
        grid = blocks(scaled.size, 256), 1, 1
        self.device.launch(f"scale<{form}>", grid, (256,), *arguments, features.shape[2])
        return scaled

    def _features(self, x: Array) -> Array:
        """Features as the kernels want them; VGG's own are so already."""
        return self._ready(x, self.form.up_type)

    def _gradient(self, d: Array) -> Array:
        if d.dtype != self.form.down_type and self.form.down == "Bfloat":  # from outside, in float32
            d = self.cupy.asarray(encoded(self.cupy.asnumpy(d), "Bfloat"))
        return self._ready(d, self.form.down_type)

    def _ready(self, x: Array, dtype: Any) -> Array:
        n = x.shape[2]
        if n % CHANNELS == 0:
            ready: Array = self.cupy.ascontiguousarray(x, dtype)
            return ready
        wide: Array = self.cupy.zeros((*x.shape[:2], _padded(n)), dtype)
        wide[:, :, :n] = x
        return wide

    def _wide(self, target: Array) -> Array:
        n = len(target)
        if n % CHANNELS == 0:
            ready: Array = self.cupy.ascontiguousarray(target, np.float32)
            return ready
        wide: Array = self.cupy.zeros((_padded(n), _padded(n)), np.float32)
        wide[:n, :n] = target
        return wide


def _padded(n: int) -> int:
    return blocks(n, CHANNELS) * CHANNELS
