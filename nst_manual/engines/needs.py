"""What each step of an engine needs in memory, in bytes, told before it is computed: for the forecast of a run.

An engine that can tell has `needs`; these are those of the reference's steps, of NumPy's functions in `layers.py`.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol


class Need(NamedTuple):
    """Of one step, beside its input: what it gives, what the walk down will want, and what it has only at work."""

    result: int
    saved: int = 0
    work: int = 0

    @property
    def most(self) -> int:
        return sum(self)


class Shape(NamedTuple):
    """A step's input, and its channels out; a convolution's two are different, a pooling's are equal."""

    height: int
    width: int
    c_in: int
    c_out: int

    def pixels(self) -> int:
        return self.height * self.width

    def pooled(self) -> int:
        return (self.height // 2) * (self.width // 2)


class Needs(Protocol):
    """Steps are called as the engine's methods; a loss by its name, "content", "style" or "guided"."""

    precise: bool  # whether the image is float64

    def fixed(self, shapes: list[tuple[str, Shape]]) -> int: ...  # buffers that stay from evaluation to evaluation
    def filters(self, c_in: int, c_out: int, linear: bool) -> int: ...  # in the engine's form, beside the weights
    def up(self, step: str, shape: Shape, pooling: str) -> Need: ...
    def down(self, step: str, shape: Shape, pooling: str) -> Need: ...
    def loss(self, kind: str, shape: Shape) -> Need: ...
    def gram(self, shape: Shape, guided: bool) -> int: ...


class ReferenceNeeds:
    """Of `layers.py` in numbers of so many bytes."""

    def __init__(self, size: int) -> None:
        self.size, self.precise = size, size == 8

    def fixed(self, shapes: list[tuple[str, Shape]]) -> int:
        return 0

    def filters(self, c_in: int, c_out: int, linear: bool) -> int:
        return 9 * c_in * c_out * self.size if self.precise else 0  # weights are float32: those are taken as they are

    def up(self, step: str, shape: Shape, pooling: str) -> Need:
        return self._steps()[step](shape, pooling)

    def down(self, step: str, shape: Shape, pooling: str) -> Need:
        return self._steps()[step + "_backward"](shape, pooling)

    def loss(self, kind: str, shape: Shape) -> Need:
        features, matrix = shape.pixels() * shape.c_out * self.size, shape.c_out**2 * self.size
        return Need(features, 0, features if kind == "content" else 2 * matrix)

    def gram(self, shape: Shape, guided: bool) -> int:
        return guided * shape.pixels() * shape.c_out * self.size + shape.c_out**2 * self.size

    def _steps(self) -> dict[str, Callable[[Shape, str], Need]]:
        return {
            "conv": lambda shape, pooling: self._conv(shape),
            "conv_backward": lambda shape, pooling: self._conv(_turned(shape)),
            "relu": lambda shape, pooling: Need(self._y(shape), self._mask(shape)),
            "relu_backward": lambda shape, pooling: Need(self._y(shape)),
            "conv_relu": lambda shape, pooling: self._conv_relu(shape),
            "conv_relu_backward": lambda shape, pooling: self._conv_relu_backward(shape),
            "pool": self._pool,
            "pool_backward": self._pool_backward,
            "conv_relu_pool": self._conv_relu_pool,
            "conv_relu_pool_backward": self._conv_relu_pool_backward,
        }

    def _y(self, shape: Shape) -> int:
        return shape.pixels() * shape.c_out * self.size

    def _mask(self, shape: Shape) -> int:
        return shape.pixels() * shape.c_out

    def _conv(self, shape: Shape) -> Need:
        """Padded input, a shifted copy of it and the next one, or a product."""
        padded = (shape.height + 2) * (shape.width + 2) * shape.c_in * self.size
        shifted, y = shape.pixels() * shape.c_in * self.size, self._y(shape)
        return Need(y, 0, padded + shifted + max(shifted, y))

    def _conv_relu(self, shape: Shape) -> Need:
        y, mask = self._y(shape), self._mask(shape)
        return Need(y, mask, max(self._conv(shape).most, 2 * y + mask) - y - mask)

    def _conv_relu_backward(self, shape: Shape) -> Need:
        conv = self._conv(_turned(shape))
        return conv._replace(work=conv.work + self._y(shape))

    def _pool(self, shape: Shape, pooling: str) -> Need:
        count = shape.pooled() * shape.c_out
        if pooling == "avg":
            return Need(count * self.size)
        # The corners side by side, once more as argmax wants them, and its indices.
        return Need(count * self.size, count, max(8 * count * self.size, 4 * count * self.size + 16 * count) - count)

    def _pool_backward(self, shape: Shape, pooling: str) -> Need:
        count = shape.pooled() * shape.c_out
        return Need(self._y(shape), 0, count * (self.size + (pooling == "max")))

    def _conv_relu_pool(self, shape: Shape, pooling: str) -> Need:
        first, second = self._conv_relu(shape), self._pool(shape._replace(c_in=shape.c_out), pooling)
        saved = first.saved + second.saved
        most = max(first.most, first.result + first.saved + second.most)
        return Need(second.result, saved, most - second.result - saved)

    def _conv_relu_pool_backward(self, shape: Shape, pooling: str) -> Need:
        first, second = self._pool_backward(shape._replace(c_in=shape.c_out), pooling), self._conv_relu_backward(shape)
        return second._replace(work=max(first.most, first.result + second.most) - second.result)


def _turned(shape: Shape) -> Shape:
    return shape._replace(c_in=shape.c_out, c_out=shape.c_in)
