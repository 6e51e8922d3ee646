"""The CPU's engine, float32, with NumPy and BLAS: a quarter of the multiplications, little memory, every core.

- 3×3 convolutions by Winograd's F(4 × 4, 3 × 3), in blocks of tiles that stay in the cache, together with padding,
  bias, ReLU, its mask in bits and the pooling behind it: winograd.py, with the algorithm and its matrices.
- The first one, of the image, directly, and again on the walk down rather than kept: direct.py.
- Blocks are spread over threads, each of which calls BLAS with one thread: threads.py.

What each of these bought, in seconds and bytes: docs/cpu-engine.md.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import Array, Scalar
from ..losses import GuidedTarget, content_loss, guided_style_loss, style_loss
from .cpu_needs import CpuNeeds, gram_rows
from .direct import DirectConvolution, Pending
from .needs import Needs
from .reference import Loss, ReferenceEngine
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
        self.own_losses: dict[Any, Callable[..., tuple[Scalar, Any]]] = {
            content_loss: self._content_loss,
            style_loss: self._style_loss,
            guided_style_loss: self._guided_style_loss,
        }

    def needs(self) -> Needs | int:
        return CpuNeeds(self.threads)

    def share(self, runs: int) -> None:
        self.workers.callers = runs

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
        own = self.own_losses.get(loss)
        if own is None:
            return super().loss(loss, features, saved, target, weight)
        return own(features, saved, target, weight)

    def join(self, d: Any, d_features: Any) -> Any:
        if isinstance(d_features, Pending):
            d, d_features = d_features, d
        if not isinstance(d, Pending):
            return super().join(d, d_features)
        if isinstance(d_features, Pending):
            return Pending(self.join(d.d, d_features.d), d.parts + d_features.parts)
        return Pending(self.join(d.d, d_features), d.parts)

    def _content_loss(self, features: Array, saved: Any, target: Array, weight: float) -> tuple[Scalar, Any]:
        """losses.content_loss in parts."""
        n = features.shape[2]
        flat, goal = features.reshape(-1, n), target.reshape(-1, n)
        difference, parts = self.workers.memory.empty(flat.shape), _parts(flat)
        squares = np.empty(len(parts))

        def task(number: int) -> None:
            part = np.subtract(flat[parts[number]], goal[parts[number]], out=difference[parts[number]])
            squares[number] = np.sum(part * part, dtype=np.float64)
            part *= np.float32(weight)

        self.workers.run(task, range(len(parts)))
        return weight * np.sum(squares) / 2, difference.reshape(features.shape)

    def _style_loss(self, features: Array, saved: Any, target: Array, weight: float) -> tuple[Scalar, Any]:
        """losses.style_loss with its two products in parts; for the first layer, the second one waits."""
        height, width, n = features.shape
        difference = self.gram(features) - target
        value = weight * np.sum(difference * difference, dtype=np.float64) / (4 * n**2)
        matrix = difference * np.float32(weight / (n**2 * height * width))
        if _is_image(saved):
            return value, Pending(None, ((matrix, None),))
        flat = features.reshape(-1, n)
        gradient = self.workers.memory.empty(flat.shape)
        self.workers.run(lambda part: np.matmul(flat[part], matrix, out=gradient[part]), _parts(flat))
        return value, gradient.reshape(features.shape)

    def _guided_style_loss(
        self, features: Array, saved: Any, target: GuidedTarget, weight: float
    ) -> tuple[Scalar, Any]:
        """losses.guided_style_loss likewise."""
        n = features.shape[2]
        difference = self.guided_gram(features, target.guide) - target.gram
        value = weight * np.sum(difference * difference, dtype=np.float64) / (4 * n**2)
        matrix, squares = difference * np.float32(weight / n**2), (target.guide**2).reshape(-1, 1)
        if _is_image(saved):
            return value, Pending(None, ((matrix, squares),))
        flat = features.reshape(-1, n)
        gradient = self.workers.memory.empty(flat.shape)

        def task(part: slice) -> None:
            np.matmul(flat[part], matrix, out=gradient[part])
            gradient[part] *= squares[part]

        self.workers.run(task, _parts(flat))
        return value, gradient.reshape(features.shape)

    def keep(self, features: Array) -> Array:
        """A copy, for what stays would be in the way of what comes and goes in the engine's memory."""
        return features.copy()

    def gram(self, features: Array) -> Array:
        """losses.gram, as a sum of products."""
        flat = features.reshape(-1, features.shape[2])
        return (self._sum_of_products(flat, lambda part: flat[part]) / len(flat)).astype(np.float32)

    def guided_gram(self, features: Array, guide: Array) -> Array:
        """losses.guided_gram, as a sum of products."""
        flat, column = features.reshape(-1, features.shape[2]), guide.reshape(-1, 1)
        return self._sum_of_products(flat, lambda part: flat[part] * column[part]).astype(np.float32)

    def _sum_of_products(self, flat: Array, factor: Callable[[slice], Array]) -> Array:
        """The parts' products, each symmetric, summed in their order and in float64."""
        parts = _parts(flat)
        products: list[Any] = [None] * len(parts)

        def task(number: int) -> None:
            part = factor(parts[number])
            products[number] = part.T @ part  # NumPy notices that both are the same, and computes one half

        self.workers.run(task, range(len(parts)))
        total = np.zeros(products[0].shape, np.float64)
        for product in products:
            total += product
        return total


def _is_image(saved: Any) -> bool:
    """Whether that is what the first layer saved: its features can be computed again."""
    return isinstance(saved, np.ndarray) and saved.dtype == np.float32


def _parts(flat: Array) -> list[slice]:
    count = gram_rows(flat.shape[1])
    return [slice(row, row + count) for row in range(0, len(flat), count)]
