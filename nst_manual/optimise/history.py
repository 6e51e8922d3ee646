"""The pairs that L-BFGS remembers, where they should take less memory: in 16 bits, in a file, or both.

They are written and read a block at a time. A block of all rows lies in one stretch: reading it is one access.
"""

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array
from ..errors import NSTError
from ..pictures.budget import shown
from .records import Ended

LEVELS = 32767  # of a number in 16 bits, on each side of 0
PIECE = 1 << 22  # numbers that are copied at a time


class NoRoom(NSTError):
    """The disk has not enough room for a temporary file."""

    stopped = "disk full"


def check_room(place: Path, needed: int) -> None:
    """Refuse to begin what would fill the disk."""
    free = shutil.disk_usage(place).free
    if free < needed:
        raise NoRoom(
            f"a temporary file of {shown(needed)} is needed in {place}, which has {shown(free)} free: "
            "make room, write the result elsewhere, or choose --history-on memory"
        )


class Scratch:
    """A flat array of numbers in a temporary file, which is gone when nothing refers to it any more. Unlike a mapped
    file, what is read and written does not count as this process's memory."""

    def __init__(self, size: int, dtype: Any, folder: Path | None) -> None:
        self.size, self.dtype = size, np.dtype(dtype)
        place, needed = folder or Path(tempfile.gettempdir()), size * self.dtype.itemsize
        try:
            check_room(place, needed)
            self.file: Any = tempfile.TemporaryFile(dir=place, buffering=0)  # noqa: SIM115
            weakref.finalize(self, self.file.close)
            self.file.truncate(needed)
        except OSError as error:
            raise NSTError(
                f"no temporary file can be made in {place} ({error.strerror}): "
                "choose --history-on memory, or write the result elsewhere"
            ) from error

    def read(self, start: int, out: Array) -> Array:
        """Numbers from that one on, into a contiguous array."""
        left = out.reshape(-1).view(np.uint8)
        try:
            self.file.seek(start * self.dtype.itemsize)
            while left.size:
                count = self.file.readinto(left)
                if not count:
                    raise Ended("disk failed", "a temporary file was cut short; the picture is the best before that")
                left = left[count:]
        except OSError as error:
            message = f"a temporary file can't be read ({error.strerror}); the picture is the best before that"
            raise Ended("disk failed", message) from error
        return out

    def write(self, start: int, numbers: Array) -> None:
        left = np.ascontiguousarray(numbers).reshape(-1).view(np.uint8)
        try:
            self.file.seek(start * self.dtype.itemsize)
            while left.size:
                left = left[self.file.write(left) :]
        except OSError as error:
            message = f"a temporary file can't be written ({error.strerror}); the picture is the best before that"
            raise Ended("disk full", message) from error


class Rows:
    """`count` vectors, of the length and kind of `like`, cut into the given blocks.

    `rows[:, block]` reads one block of all vectors; `put` writes one vector. In 16 bits, the numbers of a vector within
    a block share a scale.
    """

    def __init__(
        self, like: Array, count: int, blocks: Sequence[slice], bits: int = 32, folder: Path | None = None
    ) -> None:
        self.count, self.blocks, self.kind = count, blocks, like.dtype
        self.dtype = np.dtype(np.int16) if bits == 16 else like.dtype
        self.shape = (count * like.size,)
        self.scales = np.zeros_like(like, shape=(len(blocks) if bits == 16 else 0, count))
        self.numbers = {block.start: number for number, block in enumerate(blocks)}
        self.file = None if folder is None else Scratch(count * like.size, self.dtype, folder)
        self.flat = np.zeros_like(like, shape=self.shape if folder is None else (0,), dtype=self.dtype)

    def __getitem__(self, key: tuple[slice, slice]) -> Array:
        every, block = key
        width = block.stop - block.start
        if self.file is None:
            found = self.flat[self.count * block.start : self.count * block.stop]
        else:
            found = self.file.read(self.count * block.start, np.empty(self.count * width, self.dtype))
        rows = found.reshape(self.count, width)
        if len(self.scales):
            rows = rows * self.scales[self.numbers[block.start]][:, None]
        return rows[every]

    def put(self, row: int, one: Array, other: Array) -> None:
        """Vector number `row` becomes one − other."""
        for number, block in enumerate(self.blocks):
            width = block.stop - block.start
            difference = one[block] - other[block]
            if len(self.scales):
                scale = np.abs(difference).max() / LEVELS
                self.scales[number, row] = scale
                difference = np.rint(difference / np.where(scale > 0, self.scales[number, row], 1))
            start = self.count * block.start + row * width
            if self.file is None:
                self.flat[start : start + width] = difference
            else:
                self.file.write(start, difference.astype(self.dtype))

    def pieces(self) -> Iterator[Array]:
        """All numbers, as they are kept, a piece at a time."""
        for start in range(0, self.shape[0], PIECE):
            stop = min(start + PIECE, self.shape[0])
            if self.file is None:
                yield self.flat[start:stop]
            else:
                yield self.file.read(start, np.empty(stop - start, self.dtype))

    def fill(self, kept: Any) -> None:
        """The reverse of `pieces`: from an array, or what else gives its parts as one."""
        for start in range(0, self.shape[0], PIECE):
            part = kept[start : min(start + PIECE, self.shape[0])]
            if self.file is None:
                self.flat[start : start + part.size] = np.asarray(part, like=self.flat)
            else:
                self.file.write(start, part)


def fill(array: Any, kept: Any) -> None:
    """The array, or rows, get numbers that were kept. Rows are refused where they were kept in another way."""
    if tuple(kept.shape) != tuple(array.shape) and (isinstance(array, Rows) or kept.size != array.size):
        raise ValueError(f"{array.shape} numbers were expected, not {kept.shape}")
    kept = flat(kept)
    if isinstance(array, Rows):
        array.fill(kept)
    else:
        ours = flat(array)
        for start in range(0, ours.size, PIECE):
            ours[start : start + PIECE] = np.asarray(kept[start : start + PIECE], like=ours)


def flat(kept: Any) -> Any:
    """Its numbers in a row, of an array or of what is flat already and only gives its parts as one."""
    return kept.reshape(-1) if hasattr(kept, "reshape") else kept
