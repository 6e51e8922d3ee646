"""Memory for feature maps, taken once and used again in every evaluation.

A new array of many megabytes consists of empty pages that the operating system must find, and clear when they are
first written: a tenth of an evaluation's time. Here arrays are cut out of a few large pieces, and an array's place is
free again as soon as nothing refers to it.

A walk up and down takes and frees arrays whose sizes are halves and quarters of each other, and the first ones mostly
stay longest. So an array goes into the smallest gap that holds it, next to its older neighbour: gaps stay whole. With
the paper's layers the pieces together are no larger than what is alive at once; with some other layers a tenth larger.
An array that fits into no gap is left to NumPy.
"""

import math
import mmap
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


def is_room_for(count: int) -> bool:
    """Whether the system would give so many bytes now. They are not touched."""
    try:
        mmap.mmap(-1, count).close()
    except (OSError, MemoryError):
        return False
    return True


def aligned(shape: tuple[int, ...], zero: bool = False) -> Array:
    """Like np.empty or np.zeros, in float32, but starting at the beginning of a cache line.

    AVX-512 loads a whole line at once, and needs two loads for numbers that cross a line's end. NumPy's own large
    arrays start 16 bytes behind the beginning of a page, so that every load would cross.
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


class Memory(threading.local):
    """One engine's memory. Each thread that asks for arrays has its own."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.count = 0

    def empty(self, shape: tuple[int, ...]) -> Array:
        """Like np.empty, in float32. It holds whatever was last written to that memory."""
        size = math.prod(shape) * FLOAT
        if size < SMALL:
            return aligned(shape)
        room = -(-size // STEP) * STEP
        gaps = [(size, piece.size, start, piece) for piece in self.pieces for size, start in piece.gaps(room)]
        fitting = [gap for gap in gaps if gap[0] >= room]
        if fitting:
            _, _, start, piece = min(fitting, key=lambda gap: gap[:2])
        elif sum(gap[0] for gap in gaps) >= room:
            return aligned(shape)  # there is room, but not in one stretch, and another piece would be too much
        else:
            self.pieces = [piece for piece in self.pieces if piece.places]  # unused ones are too small: let them go
            start, piece = 0, Piece(room)
            self.pieces.append(piece)
        self.count += 1
        return piece.array(start, room, size, self.count).reshape(shape)


class Piece:
    """A stretch of memory, and the places in it that are taken, in order."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.bytes = aligned((size // FLOAT,)).data.cast("B")
        self.places: list[Place] = []

    def array(self, start: int, room: int, size: int, number: int) -> Array:
        """An array of that many bytes. It is a view of a memoryview, not of another array, so all views of it refer to
        it alone: when it is gone, its place is free."""
        array: Array = np.frombuffer(self.bytes[start : start + size], np.float32)
        self.places.append(Place(start, start + room, number, weakref.ref(array)))
        self.places.sort()
        return array

    def gaps(self, room: int) -> Iterator[tuple[int, int]]:
        """The size of each free stretch, and where `room` bytes would start in it: next to the older neighbour."""
        self.places = [place for place in self.places if place.array() is not None]
        free, before = 0, 0  # where the free stretch begins, and how old its neighbour there is
        for start, stop, number in (*(place[:3] for place in self.places), (self.size, self.size, 0)):
            if start > free:
                yield start - free, free if before <= number else start - room
            free, before = stop, number
