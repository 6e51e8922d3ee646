"""Who has which part of a picture: a grid of rectangles, one for each worker, as even as tiles allow."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

from ..arrays import Array, Place
from ..tiles.plan import ALIGNED, LARGE, Interval, shared_out
from ..vgg import Steps, smallest_side

HALO = 80  # pixels around a rectangle that are computed, too, about: they make narrow ones costly


@dataclass(frozen=True)
class Rectangle:
    """Rows and columns of a picture."""

    rows: Interval
    columns: Interval

    @property
    def place(self) -> Place:
        return slice(*self.rows), slice(*self.columns)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.rows.size, self.columns.size, 3

    @property
    def empty(self) -> bool:
        return self.rows.size <= 0 or self.columns.size <= 0

    def within(self, other: "Rectangle") -> Place:
        """The same, counted from the corner of another one that contains it."""
        return self.rows.within(other.rows), self.columns.within(other.columns)

    def common(self, other: "Rectangle") -> "Rectangle":
        return Rectangle(*(Interval(max(a.start, b.start), min(a.stop, b.stop)) for a, b in self._both(other)))

    def around(self, other: "Rectangle") -> "Rectangle":
        """The smallest one that contains both."""
        return Rectangle(*(Interval(min(a.start, b.start), max(a.stop, b.stop)) for a, b in self._both(other)))

    def _both(self, other: "Rectangle") -> tuple[tuple[Interval, Interval], tuple[Interval, Interval]]:
        return (self.rows, other.rows), (self.columns, other.columns)


@dataclass(frozen=True)
class Grid:
    """A picture of that (height, width), cut at these rows and columns, both ends included."""

    size: tuple[int, int]
    rows: Sequence[int]
    columns: Sequence[int]

    @classmethod
    def of(cls, size: tuple[int, int], count: int, steps: Steps) -> "Grid":
        """For at most so many workers: that whose largest part, with its halo, is the smallest; flat parts rather than
        narrow ones."""
        found = [cls(size, *_cuts(size, (down, count // down), steps)) for down in range(count, 0, -1)]
        return min(found, key=lambda grid: (grid.most(), len(grid.parts)))

    @property
    def parts(self) -> list[Rectangle]:
        """Row by row."""
        axes = ([Interval(*ends) for ends in pairwise(cuts)] for cuts in (self.rows, self.columns))
        return [Rectangle(*both) for both in product(*axes)]

    def most(self) -> int:
        """The pixels of the largest part and its halo."""

        def longest(cuts: Sequence[int]) -> int:
            return max(b - a + HALO * ((a > 0) + (b < cuts[-1])) for a, b in pairwise(cuts))

        return longest(self.rows) * longest(self.columns)

    def cut(self, whole: Array) -> list[Array]:
        """The parts of a picture."""
        return [whole[part.place] for part in self.parts]


def _cuts(size: tuple[int, int], counts: tuple[int, int], steps: Steps) -> Any:
    unit = smallest_side(steps)
    for length, count in zip(size, counts, strict=True):
        large = length // count >= LARGE * unit
        yield shared_out(length, count, unit * (ALIGNED if large else 1))


def tiles_at(part: Interval, side: int | None, unit: int) -> list[int]:
    """Where the tiles of a part begin and end along an axis; each is at most `side` long, if there is one."""
    if side is None:
        return list(part)
    count = -(-part.size // max(side, unit))
    return [part.start + edge for edge in shared_out(part.size, count, unit)]
