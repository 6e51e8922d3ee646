"""The CPU's engine, float32, with NumPy and BLAS: a quarter of the multiplications, little memory, every core.

- 3×3 convolutions by Winograd's F(4 × 4, 3 × 3), in blocks of tiles that stay in the cache, together with padding,
  bias, ReLU, its mask in bits and the pooling behind it: winograd.py, with the algorithm and its matrices.
- The first one, of the image, directly, and again on the walk down rather than kept: direct.py.
- The losses' products and sums in parts: cpu_losses.py.
- Blocks and parts are spread over threads, each of which calls BLAS with one thread: threads.py.

What each of these bought, in seconds and bytes: docs/cpu-engine.md.
"""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ...arrays import Array, Scalar
from ...losses import content_loss, guided_style_loss, style_loss
from ..blas import one_blas_thread
from ..needs import Needs
from ..reference import Loss, ReferenceEngine
from . import losses as cpu_losses
from .first_layer import DirectConvolution, Pending
from .needs import CpuNeeds
from .threads import Workers, keep_no_freed_arrays
from .winograd import WinogradConvolution


class CpuEngine(ReferenceEngine):
    """NumPy and BLAS, on all cores that the process may use or on so many threads."""

    name = "cpu"
    precisions = ("float32",)

    def __init__(self, precision: str = "float32", threads: int | None = None) -> None:
        super().__init__(precision)
        keep_no_freed_arrays()
        self.workers = Workers(threads)
        self.threads = self.workers.threads

    def needs(self) -> Needs | int:
        return CpuNeeds(self.threads)

    def share(self, runs: int) -> None:
        self.workers.callers = runs

    def at_work(self) -> AbstractContextManager[None]:
        return one_blas_thread

    def prepare(self, kernel: Array, bias: Array) -> Any:
        if kernel.shape[2] == 3:
            return DirectConvolution(kernel, bias)
        return WinogradConvolution(kernel, bias)

    def conv_relu(self, x: Array, filters: Any) -> tuple[Array, Any]:
        x = np.ascontiguousarray(x)
        if isinstance(filters, DirectConvolution):
            return filters.forward(x, self.workers), x
        y, mask = filters.forward(x, None, self.workers)
        return y, mask

    def conv_relu_backward(self, d_y: Any, saved: Any, filters: Any) -> Array:
        if isinstance(filters, DirectConvolution):
            return filters.backward(d_y, saved, self.workers)
        d_x: Array = filters.backward(d_y, saved, None, self.workers)
        return d_x

    def conv_relu_pool(self, x: Array, filters: Any, pooling: str) -> tuple[Array, Any]:
        if isinstance(filters, DirectConvolution):
            return super().conv_relu_pool(x, filters, pooling)
        y, mask = filters.forward(np.ascontiguousarray(x), pooling, self.workers)
        return y, (mask, pooling)

    def conv_relu_pool_backward(self, d_y: Array, saved: Any, filters: Any) -> Array:
        if isinstance(filters, DirectConvolution):
            return super().conv_relu_pool_backward(d_y, saved, filters)
        d_x: Array = filters.backward(d_y, *saved, self.workers)
        return d_x

    def loss(self, loss: Loss, features: Array, saved: Any, target: Any, weight: float) -> tuple[Scalar, Any]:
        waits = _is_image(saved)
        if loss is content_loss:
            return cpu_losses.content_loss(features, target, weight, self.workers)
        if loss is style_loss:
            return cpu_losses.style_loss(features, None, target, weight, waits, self.workers)
        if loss is guided_style_loss:
            return cpu_losses.style_loss(features, target.guide, target.gram, weight, waits, self.workers)
        return super().loss(loss, features, saved, target, weight)

    def join(self, d: Any, d_features: Any) -> Any:
        if isinstance(d_features, Pending):
            d, d_features = d_features, d
        if isinstance(d, Pending):
            if isinstance(d_features, Pending):
                return Pending(self.join(d.d, d_features.d), d.parts + d_features.parts)
            return Pending(self.join(d.d, d_features), d.parts)
        if d is None or d_features is None:
            return super().join(d, d_features)
        cpu_losses.add(d, d_features, self.workers)
        return d

    def keep(self, features: Array) -> Array:
        """A copy, for what stays would be in the way of what comes and goes in the engine's memory."""
        return features.copy()

    def gram(self, features: Array) -> Array:
        return cpu_losses.gram(features, None, self.workers)

    def guided_gram(self, features: Array, guide: Array) -> Array:
        return cpu_losses.gram(features, guide, self.workers)


def _is_image(saved: Any) -> bool:
    """Whether that is what the first layer saved: its features can be computed again."""
    return isinstance(saved, np.ndarray) and saved.dtype == np.float32
