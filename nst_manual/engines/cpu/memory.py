"""Memory for feature maps, taken once and used again in every evaluation.

A new array of many megabytes consists of empty pages that the operating system must find, and clear when they are
first written: a tenth of an evaluation's time. Here arrays are cut out of one long stretch, and an array's place is
free again as soon as nothing refers to it.

A walk up and down takes and frees arrays whose sizes are halves and quarters of each other, and the first ones mostly
stay longest. So an array goes into the smallest gap that holds it, next to its older neighbour: gaps stay whole. If no
gap holds it, it goes to the end. So an evaluation writes to no more than is alive at once, whatever its layers. The
stretch is longer than the first array needs: what is never written to costs no memory, only addresses.
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
LINE = 64  # bytes of a line of the cache, to which places are rounded
AHEAD = (4, 2)  # times the first array of a stretch: how long it may be


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


class Taken(NamedTuple):
    """From byte `start` to byte `stop` of a stretch, taken by an array; later ones have larger numbers."""

    start: int
    stop: int
    number: int
    array: weakref.ref[Array]


class Memory(threading.local):
    """One engine's memory. Each thread that asks for arrays has its own."""

    def __init__(self) -> None:
        self.stretches: list[Stretch] = []
        self.count = 0

    def empty(self, shape: tuple[int, ...]) -> Array:
        """Like np.empty, in float32. It holds whatever was last written to that memory."""
        size = math.prod(shape) * FLOAT
        if size < SMALL:
            return aligned(shape)
        room = -(-size // LINE) * LINE
        fitting = [
            (gap, start, stretch) for stretch in self.stretches for gap, start in stretch.gaps(room) if gap >= room
        ]
        if fitting:
            _, start, stretch = min(fitting, key=lambda found: found[:2])
        else:
            self.stretches = [one for one in self.stretches if one.places]  # unused ones are too small: let them go
            ends = [(one.end, one) for one in self.stretches if one.end + room <= one.size]
            start, stretch = ends[0] if ends else (0, Stretch(_length(room)))
            if not ends:
                self.stretches.append(stretch)
        self.count += 1
        return stretch.array(start, room, size, self.count).reshape(shape)


def _length(room: int) -> int:
    """Of a stretch that begins with so many bytes; where addresses are few, others have as many left."""
    return next((times * room for times in AHEAD if is_room_for(2 * times * room)), room)


class Stretch:
    """Consecutive bytes, and the places in them that are taken, in order."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.bytes = aligned((size // FLOAT,)).data.cast("B")
        self.places: list[Taken] = []
        self.used = 0  # bytes from the start that were ever taken

    @property
    def end(self) -> int:
        """Where the last place ends."""
        return max((place.stop for place in self.places), default=0)

    def array(self, start: int, room: int, size: int, number: int) -> Array:
        """An array of that many bytes. It is a view of a memoryview, not of another array, so all views of it refer to
        it alone: when it is gone, its place is free."""
        array: Array = np.frombuffer(self.bytes[start : start + size], np.float32)
        self.places.append(Taken(start, start + room, number, weakref.ref(array)))
        self.places.sort()
        self.used = max(self.used, start + room)
        return array

    def gaps(self, room: int) -> Iterator[tuple[int, int]]:
        """The size of each gap in what is used, and where `room` bytes would start: next to the older neighbour."""
        self.places = [place for place in self.places if place.array() is not None]
        free, before = 0, 0  # where the gap begins, and how old its neighbour there is
        for start, stop, number in (*(place[:3] for place in self.places), (self.used, self.used, 0)):
            if start > free:
                yield start - free, free if before <= number else start - room
            free, before = stop, number
