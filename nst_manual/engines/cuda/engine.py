"""The GPU's fused engine: CuPy, cuBLAS and kernels of our own (kernels/). How it works: docs/cuda-engine.md.

- float32 by Winograd, tf32 and float16 on tensor cores: layers.py. In float16, features have 16 bits with 10 of
  fraction, gradients 16 with 7 and float32's range; sums are float32 within a part of a map and float64 between parts.
- Nothing is fetched before the loss is: values stay on the device, and the launches run ahead of it.
- Evaluations of one size are recorded once and repeated as a CUDA graph where that works: graph.py.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ...arrays import Array, Place, Scalar, framed
from ...losses import Moments
from ...vgg import Conv, Operation, Pool, Relu, Steps
from ..fusing import Group, groups, scale_folded
from ..reference import Filters
from .device import TILES, Device, blocks
from .layers import ARITHMETIC, CHANNELS, FORMS, POOLINGS, SCALES, FirstConvolution, encoded
from .plain import PlainEngine
from .transport import DeviceMoments
from .vectors import DeviceVectors

BYTES_PER_PIXEL = {"float32": 950, "tf32": 1070, "float16": 700}  # with lbfgs; docs/cuda-engine.md
CONTENT_BLOCKS = 1024  # at most, whose sums make the content loss
SLAB = 2048  # pixels whose features are added up in float32


class Pending(NamedTuple):
    """A gradient in the first layer's features F that is not computed yet: d + matrix · F + shift."""

    d: Array | None
    matrix: Array
    shift: Array | None


class FirstSaved(NamedTuple):
    """What the first layer saves: its image, from which F can be computed again, and F's mask."""

    x: Array
    mask: Array


class CudaEngine(PlainEngine):
    """float32, tf32 and float16."""

    name = "cuda"
    precisions = ("float32", "tf32", "float16")
    recordable = ("tf32", "float16")  # CuPy lets no call of cuBLAS into a graph
    bytes_per_pixel = BYTES_PER_PIXEL
    kind = DeviceMoments

    def __init__(self, precision: str, cupy: Any, make_device: Callable[..., Device] = Device) -> None:
        super().__init__(precision, cupy, make_device)
        self.vectors = partial(DeviceVectors, self.device)
        self.form, self.rounds = FORMS[precision], precision == "float32"  # by Winograd
        self.tiles = () if self.rounds else TILES
        self.arithmetic: Any = ARITHMETIC[precision](self.device, self.form)

    def to_host(self, array: Array) -> Array:
        if array.dtype == np.uint16:  # a gradient in bfloat16
            array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return super().to_host(array)

    def operations(self, steps: Steps, filters: Filters, taps: Collection[str], pooling: str) -> Sequence[Operation]:
        if pooling == "l2":  # its derivative needs the features in front of it
            taps = {*taps, *(step.name for step in steps if isinstance(step, Relu))}
        return [self.fused(group, filters, pooling) for group in groups(steps, taps)]

    def fused(self, group: Group, filters: Filters, pooling: str) -> Operation:
        """A convolution with its ReLU and the pooling behind it, as far as the group goes."""
        first, name = group[0], group[-1].name
        if isinstance(first, Pool):
            return Operation(name, lambda x: self.pool(x, pooling), self.pool_backward)
        if not isinstance(first, Conv):
            return self.operation(first, filters, pooling)
        kernel, bias, behind = scale_folded(*padded(*filters[first.layer]), pooling if len(group) > 2 else None)
        rectify = len(group) > 1
        if first.c_in == 3:
            layer = FirstConvolution(self.device, self.form, kernel, bias, first.padding)
            return self.first(name, layer, first.c_out, rectify)
        convolution, c_in, c_out = self.arithmetic.convolution(kernel, bias), first.c_in, first.c_out

        def up(x: Array) -> tuple[Array, Any]:
            y, mask = convolution.up(self._features(x), behind, rectify)
            return y[:, :, :c_out], mask if rectify else None

        def down(d_y: Any, mask: Any) -> Array:
            d_x: Array = convolution.down(self._gradient(d_y), mask, behind)
            return d_x[:, :, :c_in]

        return Operation(name, up, down)

    def first(self, name: str, convolution: FirstConvolution, c_out: int, rectify: bool) -> Operation:
        """The image's own convolution. With its ReLU joined, its features are computed again on the way down."""

        def up(x: Array) -> tuple[Array, Any]:
            x = self.cupy.ascontiguousarray(x)
            y, mask = convolution.up(x, rectify)
            return y[:, :, :c_out], FirstSaved(x, mask) if rectify else None

        def down(d_y: Any, saved: Any) -> Array:
            if saved is None:
                return convolution.down(self._gradient(d_y), None)
            return self._first_backward(d_y, saved, convolution)

        return Operation(name, up, down)

    def pool(self, x: Array, pooling: str) -> tuple[Array, Any]:
        n, x = x.shape[2], self._features(x)
        height, width, c = x.shape
        y = self.device.empty((height // 2, width // 2, c), self.form.up_type)
        winners = self.device.empty(y.shape, np.uint8) if pooling == "max" else None
        arguments = x, y, winners, POOLINGS[pooling], SCALES[pooling], height, width, c
        self.device.launch(f"pool<{self.form.up}>", (blocks(y.size, 256),), (256,), *arguments)
        return y[:, :, :n], (winners, x if pooling == "l2" else None, pooling, (height, width))

    def pool_backward(self, d_y: Array, saved: Any) -> Array:
        winners, x, pooling, (height, width) = saved
        n, d = d_y.shape[2], self._gradient(d_y)
        d_x = self.device.empty((height, width, d.shape[2]), self.form.down_type)
        arguments = d, winners, x, d_x, POOLINGS[pooling], SCALES[pooling], height, width, d.shape[2]
        name = f"pool_backward<{self.form.down}, {self.form.up}>"
        self.device.launch(name, (blocks(d_x.size, 256),), (256,), *arguments)
        return d_x[:, :, :n]

    def moments(self, features: Array, weights: Array | None) -> Moments:
        n, features = features.shape[2], self._features(features)
        height, width, c = features.shape
        pixels = height * width
        sums = self.device.empty((blocks(pixels, SLAB), c), np.float64)
        weighted = None if weights is None else self.cupy.ascontiguousarray(weights, np.float32)
        arguments = features, weighted, sums, np.int64(pixels), c, SLAB
        self.device.launch(f"channel_sums<{self.form.up}>", (len(sums), c // 32), (32, 8), *arguments)
        mean = self.device.empty((c,), np.float64)
        self.device.launch("add_partials", (c,), (256,), sums, len(sums), c, mean)
        if weighted is None:
            mean /= pixels
        else:  # √t brings the weights, whose sum is 1, into a product; times √M it is near to 1
            features = self._scaled(features, np.sqrt(weighted * np.float32(pixels)))
        partials = self.arithmetic.partial_grams(features)
        second = self.device.empty((c, c), np.float64)
        self.device.launch("gram_sum", (c // 32, c), (32, 8), partials, second, len(partials), np.float64(pixels), c)
        return DeviceMoments(self, mean[:n], second[:n, :n])

    def pull_back(
        self, d: Any, features: Array, saved: Any, weights: Array | None, d_mean: Array | None, d_second: Array
    ) -> Any:
        """d + losses.moments_backward; for the first layer, the product waits for the walk down."""
        waits = isinstance(saved, FirstSaved) and weights is None
        height, width, _ = saved.x.shape if waits else features.shape
        n, c = len(d_second), _padded(len(d_second))
        t = 1 / (height * width) if weights is None else 1.0
        matrix = self.device.empty((c, c), self.form.down_type)
        arguments = self._wide(d_second.T, (c, c)), np.float64(2 * t), matrix, c * c
        self.device.launch(f"encode<{self.form.down}>", (blocks(c * c, 256),), (256,), *arguments)
        shift = None if d_mean is None else self._wide(t * d_mean, (c,)).astype(np.float32)
        if waits:
            return self.join(d, Pending(None, matrix, shift))
        features = self._features(features)
        gradient = self.device.empty(features.shape, self.form.down_type)
        self.arithmetic.multiply(features, matrix, gradient)
        self._pull(gradient, shift, weights)
        return self.join(d, gradient[:, :, :n])

    def kept(self, features: Array, saved: Any, weights: Array | None) -> Any:
        return None if isinstance(saved, FirstSaved) and weights is None else features

    def difference(
        self, features: Array, target: Array, weight: float, place: Place | None = None
    ) -> tuple[Scalar, Any]:
        shape, features = features.shape, features if place is None else features[place].copy()
        n, features, target = features.shape[2], self._features(features), self._features(target)
        device, form, weight = self.device, self.form, float(weight)
        gradient, count = device.empty(features.shape, form.down_type), min(blocks(features.size, 256), CONTENT_BLOCKS)
        sums = device.empty((count,), np.float64)
        arguments = features, target, weight, gradient, sums, np.int64(features.size)
        device.launch(f"content<{form.up}, {form.down}>", (count,), (256,), *arguments)
        return device.add_up(sums, weight / 2), framed(gradient[:, :, :n], shape, place)

    def join(self, d: Any, d_features: Any) -> Any:
        if isinstance(d_features, Pending):
            d, d_features = d_features, d
        if isinstance(d, Pending):
            if isinstance(d_features, Pending):
                matrix = self.join(d.matrix[None], d_features.matrix[None])[0]
                shifts = [shift for shift in (d.shift, d_features.shift) if shift is not None]
                return Pending(self.join(d.d, d_features.d), matrix, sum(shifts[1:], shifts[0]) if shifts else None)
            return d._replace(d=self.join(d.d, d_features))
        if d is None or d_features is None:
            return d_features if d is None else d
        if d.shape[2] == 3:  # of the image itself, which stays in float32
            d += d_features
            return d
        n, d, d_features = d.shape[2], self._gradient(d), self._gradient(d_features)
        self.device.launch(f"join<{self.form.down}>", (blocks(d.size, 256),), (256,), d, d_features, np.int64(d.size))
        return d[:, :, :n]

    def _first_backward(self, d_y: Any, saved: FirstSaved, convolution: FirstConvolution) -> Array:
        """d_x, with a pending part of d_y from features that are computed again, strip by strip."""
        pending = d_y if isinstance(d_y, Pending) else None
        given = d_y if pending is None else pending.d
        height, width, _ = saved.x.shape
        d: Any = None if given is None else self._gradient(given)
        if pending is not None:
            whole = self.device.empty((height, width, len(pending.matrix)), self.form.down_type) if d is None else d
            for first, last in convolution.strips(saved.x):
                features = convolution.rows(saved.x, first, last)
                self.arithmetic.multiply(features, pending.matrix, whole[first:last], d is not None)
                del features
            d = whole
            self._pull(d, pending.shift, None)
        return convolution.down(d, saved.mask)

    def _pull(self, gradient: Array, shift: Array | None, weights: Array | None) -> None:
        """gradient ← (gradient + shift) · weights, a shift for each channel and a weight for each position."""
        if shift is None and weights is None:
            return
        weights = None if weights is None else self.cupy.ascontiguousarray(weights, np.float32)
        arguments = gradient, shift, weights, np.int64(gradient.size), gradient.shape[2]
        self.device.launch(f"pull<{self.form.down}>", (blocks(gradient.size, 256),), (256,), *arguments)

    def _scaled(self, features: Array, weights: Array) -> Array:
        scaled = self.device.empty(features.shape, features.dtype)
        arguments = features, weights, scaled, np.int64(scaled.size), features.shape[2]
        self.device.launch(f"scale<{self.form.up}>", (blocks(scaled.size, 256),), (256,), *arguments)
        return scaled

    def _features(self, x: Array) -> Array:
        """Features as the kernels want them; VGG's own are so already."""
        return self._ready(x, self.form.up_type)

    def _gradient(self, d: Array) -> Array:
        if d.dtype != self.form.down_type and self.form.down == "Bfloat":  # from outside, in float32
            d = self.cupy.asarray(encoded(self.cupy.asnumpy(d), "Bfloat"))
        return self._ready(d, self.form.down_type)

    def _ready(self, x: Array, dtype: Any) -> Array:
        return self._wide(x, (*x.shape[:2], _padded(x.shape[2])), dtype)

    def _wide(self, small: Array, shape: tuple[int, ...], dtype: Any = np.float64) -> Array:
        """An array for all of the kernels' channels: those that a layer lacks are 0."""
        if small.shape == shape:
            ready: Array = self.cupy.ascontiguousarray(small, dtype)
            return ready
        wide: Array = self.cupy.zeros(shape, dtype)
        wide[tuple(map(slice, small.shape))] = small
        return wide


def padded(kernel: Array, bias: Array) -> tuple[Array, Array]:
    """A layer's filters for the kernels' channels, multiples of 64 but for the image's 3; those that it lacks are 0."""
    _, _, c_in, c_out = kernel.shape
    wide = np.zeros((3, 3, 3 if c_in == 3 else _padded(c_in), _padded(c_out)), np.float32)
    wide[:, :, :c_in, :c_out] = kernel
    wide_bias = np.zeros(_padded(c_out), np.float32)
    wide_bias[:c_out] = bias
    return wide, wide_bias


def _padded(n: int) -> int:
    return blocks(n, CHANNELS) * CHANNELS
