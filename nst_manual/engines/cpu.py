"""The CPU's engine, float32: the reference, with each ReLU's mask kept in one bit per activation."""

from typing import Any

import numpy as np

from .. import layers
from ..arrays import Array
from .reference import ReferenceEngine


class CpuEngine(ReferenceEngine):
    """NumPy and BLAS."""

    name = "cpu"
    precisions = ("float32",)

    def __init__(self, precision: str = "float32") -> None:
        super().__init__(precision)

    def conv_relu(self, x: Array, filters: Any) -> tuple[Array, Any]:
        y, mask = super().conv_relu(x, filters)
        return y, np.packbits(mask, axis=2)

    def conv_relu_backward(self, d_y: Array, mask: Any, filters: Any) -> Array:
        bits = np.unpackbits(mask, axis=2, count=d_y.shape[2])
        d_y *= bits  # in place: nobody needs the unmasked gradient
        return layers.conv_backward(d_y, filters[0])
