"""The plain engine: `layers.py` behind the seam's names, in float64 or float32. Every other engine is proved by it."""

from typing import Any

import numpy as np

from .. import layers
from ..arrays import Array
from ..errors import NSTError


class ReferenceEngine:
    """NumPy, one plain function per step. The other engines subclass it and override only what is measured faster."""

    name = "reference"
    precisions: tuple[str, ...] = ("float64", "float32")

    def __init__(self, precision: str = "float64") -> None:
        if precision not in self.precisions:
            raise NSTError(
                f"the {self.name} engine computes in {' or '.join(self.precisions)}, not in {precision}: "
                f"choose --precision {self.precisions[0]}"
            )
        self.precision = precision
        self.dtype = np.dtype(precision)

    def to_device(self, array: Any) -> Array:
        return np.asarray(array, dtype=self.dtype)

    def to_host(self, array: Array) -> Array:
        return np.asarray(array)

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
