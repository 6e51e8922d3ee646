"""The plain engine: `layers.py` and `losses.py` behind the seam's names, in float64 or float32.

Every other engine is compared with it. NumPy functions called on CuPy arrays run on the GPU, so its operations do, too.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from .. import layers
from ..arrays import Array, Place, Scalar, framed
from ..errors import NSTError
from ..losses import Moments, content_loss, moments, moments_backward
from ..vgg import Conv, Operation, Relu, Step, Steps

Filters = Mapping[str, tuple[Array, Array]]


class ReferenceEngine:
    """One operation for each step. The other engines subclass it and override only what was measured to be faster."""

    name = "reference"
    precisions: tuple[str, ...] = ("float64", "float32")
    vectors: Any = None
    optimizer = "l-bfgs-b"

    def __init__(self, precision: str = "float64") -> None:
        if precision not in self.precisions:
            raise NSTError(
                f"the {self.name} engine computes in {' or '.join(self.precisions)}, not in {precision}: "
                f"choose --precision {self.precisions[0]}"
            )
        self.precision = precision
        self.dtype = np.dtype("float64" if precision == "float64" else "float32")

    def to_device(self, array: Any, dtype: Any = None) -> Array:
        return np.asarray(array, dtype=dtype or self.dtype)

    def to_host(self, array: Array) -> Array:
        return np.asarray(array)

    def free_memory(self) -> int | None:
        return None

    def repeated(self, function: Callable[[Array], Any]) -> Callable[[Array], Any]:
        return function

    def operations(self, steps: Steps, filters: Filters, taps: Collection[str], pooling: str) -> Sequence[Operation]:
        return [self.operation(step, filters, pooling) for step in steps]

    def operation(self, step: Step, filters: Filters, pooling: str) -> Operation:
        """A layer and its derivative, from layers.py."""
        if isinstance(step, Conv):
            kernel, bias = map(self.to_device, filters[step.layer])
            if step.padding == "replicate":
                return Operation(
                    step.name,
                    lambda x: (layers.conv_replicate(x, kernel, bias), None),
                    lambda d_y, _: layers.conv_replicate_backward(d_y, kernel),
                )
            return Operation(
                step.name,
                lambda x: (layers.conv(x, kernel, bias), None),
                lambda d_y, _: layers.conv_backward(d_y, kernel),
            )
        if isinstance(step, Relu):
            return Operation(step.name, layers.relu, layers.relu_backward)
        if pooling in layers.AVERAGE_SCALES:
            scale = layers.AVERAGE_SCALES[pooling]
            return Operation(
                step.name,
                lambda x: (layers.average_pool(x, scale), x.shape),
                lambda d_y, shape: layers.average_pool_backward(d_y, shape, scale),
            )
        if pooling == "l2":

            def l2_pool(x: Array) -> tuple[Array, Any]:
                y = layers.l2_pool(x)
                return y, (x, y)

            return Operation(step.name, l2_pool, lambda d_y, saved: layers.l2_pool_backward(d_y, *saved))

        def max_pool(x: Array) -> tuple[Array, Any]:
            y, winner = layers.max_pool(x)
            return y, (winner, x.shape)

        return Operation(step.name, max_pool, lambda d_y, saved: layers.max_pool_backward(d_y, *saved))

    def moments(self, features: Array, weights: Array | None) -> Moments:
        return moments(features, weights)

    def known_moments(self, mean: Array, second: Array) -> Moments:
        return Moments(self.to_device(mean, "float64"), self.to_device(second, "float64"))

    def pull_back(
        self, d: Any, features: Array, saved: Any, weights: Array | None, d_mean: Array | None, d_second: Array
    ) -> Any:
        return self.join(d, moments_backward(features, weights, d_mean, d_second))

    def kept(self, features: Array, saved: Any, weights: Array | None) -> Any:
        return features

    def each(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return [function(item) for item in items]

    def difference(
        self, features: Array, target: Array, weight: float, place: Place | None = None
    ) -> tuple[Scalar, Any]:
        value, gradient = content_loss(features if place is None else features[place], target)
        gradient *= weight
        return weight * value, framed(gradient, features.shape, place)

    def join(self, d: Any, d_features: Any) -> Any:
        if d is None or d_features is None:
            return d_features if d is None else d
        d += d_features
        return d
