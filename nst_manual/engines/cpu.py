"""The CPU's engine, float32: Winograd's convolution on blocks in the cache, one thread and one BLAS thread per core."""

from typing import Any

import numpy as np

from ..arrays import Array
from .reference import ReferenceEngine
from .threads import Workers
from .winograd import Convolution


class CpuEngine(ReferenceEngine):
    """NumPy and BLAS."""

    name = "cpu"
    precisions = ("float32",)

    def __init__(self, precision: str = "float32", threads: int | None = None) -> None:
        super().__init__(precision)
        self.workers = Workers(threads)

    def prepare(self, kernel: Array, bias: Array) -> Any:
        c_in, c_out = kernel.shape[2:]
        return Convolution(kernel, bias, m=4, tiles=64 if max(c_in, c_out) < 256 else 128)

    def conv_relu(self, x: Array, filters: Any) -> tuple[Array, Any]:
        return filters.forward(np.ascontiguousarray(x), self.workers)

    def conv_relu_backward(self, d_y: Array, mask: Any, filters: Any) -> Array:
        return filters.backward(d_y, mask, self.workers)
