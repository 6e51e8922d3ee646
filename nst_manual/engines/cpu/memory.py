"""Memory for feature maps, taken once and used again in every evaluation.

A new array of many megabytes is empty pages that the operating system must find, and clear as they are first written:
a tenth of an evaluation's time. Here arrays are cut out of a few large pieces, and their place is free again as soon as
nobody refers to them.

A walk up and down takes and frees arrays whose sizes are halves and quarters of each other, and what came first mostly
stays longest. So an array goes where it fits best, to that end of the gap that has the older neighbour: gaps stay
whole. With the paper's layers the pieces together are no larger than what is alive at once; with some others, a tenth
larger, and an array that fits nowhere comes to it for its life.
"""

import math
import threading
import weakref
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ...arrays import Array

FLOAT = 4  # bytes
SMALL = 1 << 18  # bytes: smaller arrays are left to NumPy
STEP = 4096  # bytes to which places are rounded
LINE = 64  # bytes of a line of the cache


def aligned(shape: tuple[int, ...], zero: bool = False) -> Array:
    """As np.empty or np.zeros, float32, from the beginning of a line of the cache on.

    AVX-512 loads a line at once, but two lines for numbers that lie in both. NumPy's own arrays begin anywhere: large
    ones 16 bytes behind the beginning of a page, so that each load would be one of two lines.
    """
    size = math.prod(shape) * FLOAT
    stretch = (np.zeros if zero else np.empty)(size + LINE, np.uint8)
    start = -stretch.ctypes.data % LINE
    array: Array = stretch[start : start + size].view(np.float32).reshape(shape)
    return array


class Place(NamedTuple):
    """From byte `start` to byte `stop` of a piece, taken by an array; later ones have larger numbers."""

    start: int
    stop: int
    number: int
    array: weakref.ref[Array]


class Gap(NamedTuple):
    """Free from byte `start` to byte `stop` of a piece."""

    start: int
    stop: int
    older_at_start: bool  # whether the neighbour on that side is older than the other; a piece's ends are oldest


class Memory(threading.local):
    """Of one engine: as many as there are threads that ask it for arrays, each its own."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.count = 0

    def empty(self, shape: tuple[int, ...]) -> Array:
        """As np.empty, float32; its content is whatever was last in it."""
        size = math.prod(shape) * FLOAT
        if size < SMALL:
            return aligned(shape)
        room = -(-size // STEP) * STEP
        gaps = [(gap.stop - gap.start, piece.size, piece, gap) for piece in self.pieces for gap in piece.gaps()]
        fitting = [gap for gap in gaps if gap[0] >= room]
        if fitting:
            _, _, piece, gap = min(fitting, key=lambda gap: gap[:2])
        elif sum(gap[0] for gap in gaps) >= room:
            return aligned(shape)  # there is room, but not in one stretch: another piece would be too much
        else:
            self.pieces = [piece for piece in self.pieces if piece.places]  # the others are too small: they may go
            piece, gap = Piece(room), Gap(0, room, True)
            self.pieces.append(piece)
        self.count += 1
        start = gap.start if gap.older_at_start else gap.stop - room
        return piece.array(start, room, size, self.count).reshape(shape)


class Piece:
    """A stretch of memory, and the places in it that are taken, in their order."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.bytes = aligned((size // FLOAT,)).data.cast("B")
        self.places: list[Place] = []

    def array(self, start: int, room: int, size: int, number: int) -> Array:
        """An array of so many bytes. All of its views refer to it and to no other, since it isn't itself a view of an
        array, but of a memoryview; so when it goes, its place is free."""
        array: Array = np.frombuffer(self.bytes[start : start + size], np.float32)
        self.places.append(Place(start, start + room, number, weakref.ref(array)))
        self.places.sort()
        return array

    def gaps(self) -> Iterator[Gap]:
        """What is free, after a look at which arrays are gone."""
        self.places = [place for place in self.places if place.array() is not None]
        start, number = 0, 0
        for place in self.places:
            if place.start > start:
                yield Gap(start, place.start, number < place.number)
            start, number = place.stop, place.number
        if self.size > start:
            yield Gap(start, self.size, not number)
