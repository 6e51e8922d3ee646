"""The CPU's engine, float32, with NumPy and BLAS: a quarter of the multiplications, little memory, every core.

- 3×3 convolutions by Winograd's F(4 × 4, 3 × 3), in blocks of tiles that stay in the cache, together with padding,
  bias, ReLU, its mask in bits and the pooling behind it: winograd.py, with the algorithm and its matrices.
- The first one, of the image, directly, and again on the walk down instead of being kept: first_layer.py.
- Moments, and their part in the gradient, in pieces: losses.py.
- Blocks and pieces are spread over threads, each of which calls BLAS with one thread: threads.py.

What each of these bought, in seconds and bytes: docs/cpu-engine.md.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from ...arrays import Array, Place, Scalar
from ...losses import Moments
from ...vgg import Conv, Operation, Relu, Steps
from ..blas import one_blas_thread
from ..fusing import Group, groups, scale_folded
from ..reference import Filters, ReferenceEngine
from . import losses
from .first_layer import FirstImage, FirstLayer, Pending
from .threads import Workers, keep_no_freed_arrays
from .winograd import WinogradConvolution


class CpuEngine(ReferenceEngine):
    """NumPy and BLAS, on all cores that the process may use or with the given number of threads."""

    name = "cpu"
    precisions = ("float32",)

    def __init__(self, precision: str = "float32", threads: int | None = None) -> None:
        super().__init__(precision)
        keep_no_freed_arrays()
        self.workers = Workers(threads)

    def repeated(self, function: Callable[[Array], Any]) -> Callable[[Array], Any]:
        """BLAS is set to one thread once for a whole evaluation, not for each round of work."""

        def evaluation(image: Array) -> Any:
            with one_blas_thread:
                return function(image)

        return evaluation

    def operations(self, steps: Steps, filters: Filters, taps: Collection[str], pooling: str) -> Sequence[Operation]:
        return [self.fused(group, filters, pooling) for group in groups(steps, taps)]

    def fused(self, group: Group, filters: Filters, pooling: str) -> Operation:
        """A convolution with its ReLU, and perhaps the pooling behind it. Single steps are the reference's."""
        first, name, workers = group[0], group[-1].name, self.workers
        if not isinstance(first, Conv) or len(group) == 1:
            return self.operation(first, filters, pooling)
        if first.c_in == 3:
            layer = FirstLayer(*filters[first.layer], first.padding)
            return Operation(name, lambda x: layer.up(x, workers), lambda d_y, saved: layer.down(d_y, saved, workers))
        kernel, bias, behind = scale_folded(*filters[first.layer], None if isinstance(group[-1], Relu) else pooling)
        convolution = WinogradConvolution(kernel, bias)
        return Operation(
            name,
            lambda x: convolution.forward(np.ascontiguousarray(x), behind, workers),
            lambda d_y, mask: convolution.backward(d_y, mask, behind, workers),
        )

    def moments(self, features: Array, weights: Array | None) -> Moments:
        return losses.moments(features, weights, self.workers)

    def pull_back(
        self, d: Any, features: Array, saved: Any, weights: Array | None, d_mean: Array | None, d_second: Array
    ) -> Any:
        if isinstance(saved, FirstImage):  # the features will be computed again: this can wait until then
            return self.join(d, Pending(None, (losses.Pull.of(saved.x, weights, d_mean, d_second),)))
        return losses.pulled(d, features, losses.Pull.of(features, weights, d_mean, d_second), self.workers)

    def kept(self, features: Array, saved: Any, weights: Array | None) -> Any:
        return None if isinstance(saved, FirstImage) else features

    def each(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """One item on each core at a time."""
        found: list[Any] = [None] * len(items)

        def task(number: int) -> None:
            found[number] = function(items[number])

        self.workers.run(task, range(len(items)))
        return found

    def difference(
        self, features: Array, target: Array, weight: float, place: Place | None = None
    ) -> tuple[Scalar, Any]:
        difference = losses.Difference(features, target, weight, place)
        return losses.content(difference, self.workers), difference

    def join(self, d: Any, d_features: Any) -> Any:
        if isinstance(d_features, losses.Difference) and not isinstance(d, Pending):
            return losses.drawn(d, d_features, self.workers)
        if isinstance(d_features, Pending):
            d, d_features = d_features, d
        if isinstance(d, Pending):
            if isinstance(d_features, Pending):
                return Pending(self.join(d.d, d_features.d), d.pulls + d_features.pulls)
            return Pending(self.join(d.d, d_features), d.pulls)
        if d is None or d_features is None or d.shape[2] == 3:  # of the image: small, and a part of a larger array
            return super().join(d, d_features)
        losses.add(d, d_features, self.workers)
        return d
