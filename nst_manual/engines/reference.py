"""The plain engine: `layers.py` behind the seam's names, in float64 or float32. Every other engine is proved by it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from .. import layers
from ..arrays import Array, Scalar
from ..errors import NSTError
from ..losses import gram, guided_gram
from .needs import Needs, ReferenceNeeds

Loss = Callable[[Array, Any], tuple[Scalar, Array]]


class ReferenceEngine:
    """NumPy, one plain function per step. The other engines subclass it and override only what is measured faster."""

    name = "reference"
    precisions: tuple[str, ...] = ("float64", "float32")
    threads = 1
    vectors: Any = None

    def __init__(self, precision: str = "float64") -> None:
        if precision not in self.precisions:
            raise NSTError(
                f"the {self.name} engine computes in {' or '.join(self.precisions)}, not in {precision}: "
                f"choose --precision {self.precisions[0]}"
            )
        self.precision = precision
        self.dtype = np.dtype(precision)

    def needs(self) -> Needs | int:
        return ReferenceNeeds(self.dtype.itemsize)

    def share(self, runs: int) -> None:
        pass

    def at_work(self) -> AbstractContextManager[None]:
        return nullcontext()

    def to_device(self, array: Any) -> Array:
        return np.asarray(array, dtype=self.dtype)

    def to_host(self, array: Array) -> Array:
        return np.asarray(array)

    def repeated(self, function: Callable[[Array], Any]) -> Callable[[Array], Any]:
        return function

    def prepare(self, kernel: Array, bias: Array) -> Any:
        return self.to_device(kernel), self.to_device(bias)

    def conv_relu(self, x: Array, filters: Any) -> tuple[Array, Any]:
        kernel, bias = filters
        return layers.relu(layers.conv(x, kernel, bias))

    def conv_relu_backward(self, d_y: Array, mask: Any, filters: Any) -> Array:
        kernel, _ = filters
        return layers.conv_backward(layers.relu_backward(d_y, mask), kernel)

    def pool(self, x: Array, pooling: str) -> tuple[Array, Any]:
        if pooling == "avg":
            return layers.average_pool(x), (x.shape, None)
        y, winner = layers.max_pool(x)
        return y, (x.shape, winner)

    def pool_backward(self, d_y: Array, saved: Any) -> Array:
        shape, winner = saved
        if winner is None:
            return layers.average_pool_backward(d_y, shape)
        return layers.max_pool_backward(d_y, winner, shape)

    def conv_relu_pool(self, x: Array, filters: Any, pooling: str) -> tuple[Array, Any]:
        y, mask = self.conv_relu(x, filters)
        y, saved = self.pool(y, pooling)
        return y, (mask, saved)

    def conv_relu_pool_backward(self, d_y: Array, saved: Any, filters: Any) -> Array:
        mask, saved_by_pool = saved
        return self.conv_relu_backward(self.pool_backward(d_y, saved_by_pool), mask, filters)

    def prepare_linear(self, kernel: Array, bias: Array) -> Any:
        return self.to_device(kernel), self.to_device(bias)

    def conv(self, x: Array, filters: Any) -> tuple[Array, Any]:
        kernel, bias = filters
        return layers.conv(x, kernel, bias), None

    def conv_backward(self, d_y: Array, saved: Any, filters: Any) -> Array:
        kernel, _ = filters
        return layers.conv_backward(d_y, kernel)

    def relu(self, x: Array) -> tuple[Array, Any]:
        return layers.relu(x)

    def relu_backward(self, d_y: Array, mask: Any) -> Array:
        return layers.relu_backward(d_y, mask)

    def loss(self, loss: Loss, features: Array, saved: Any, target: Any, weight: float) -> tuple[Scalar, Any]:
        value, gradient = loss(features, target)
        gradient *= weight
        return weight * value, gradient

    def keep(self, features: Array) -> Array:
        return features

    def gram(self, features: Array) -> Array:
        return gram(features)

    def guided_gram(self, features: Array, guide: Array) -> Array:
        return guided_gram(features, guide)

    def join(self, d: Any, d_features: Any) -> Any:
        """The gradient that arrives from above and the one that starts here add up."""
        if d is None or d_features is None:
            return d_features if d is None else d
        d += d_features
        return d
