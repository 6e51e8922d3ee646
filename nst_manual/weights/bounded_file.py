"""An open weights file, and what a reader finds in it.

Every file counts as hostile: each count and offset is compared with the file's size before memory is taken, and an
array is read only when somebody asks for it.
"""

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Self

import numpy as np

from ..arrays import Array
from ..errors import NSTError, plain
from .fingerprint import Reading

_CODES = {"float16": "f2", "bfloat16": "u2", "float32": "f4", "float64": "f8"}
ITEM_SIZES = {dtype: int(code[1]) for dtype, code in _CODES.items()}
MOST_UNPACKED = 3 << 28  # bytes per file; MatConvNet's VGG-19 unpacks a fifth of it
MOST_STEPS = 100_000  # per file: opcodes, fields or elements of its structure; VGG-19's files need a few thousand
LARGEST_KERNEL = 3 * 3 * 512 * 512  # numbers in VGG-19's largest kernel; nothing larger is ever read


def unusable(path: Path) -> str:
    """Why the path cannot be a weights file, to be put after "it"; empty for a regular file."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "does not exist"
    except (OSError, ValueError) as error:  # no permission, a name too long or with a zero byte
        return f"cannot be opened ({getattr(error, 'strerror', None) or error})"
    return "" if stat.S_ISREG(mode) else "is a folder" if stat.S_ISDIR(mode) else "is not a regular file"


class WeightsFile:
    """An open regular file. A read outside it raises NSTError."""

    def __init__(self, path: Path, kind: str = "a weights file") -> None:
        self.path = path
        self._unpacked = self._steps = 0
        if problem := unusable(path):  # opening a pipe would wait for its writer
            raise self.refused(f"it {problem}: give {kind}")
        try:
            self.stream = path.open("rb")  # also for libraries that want a file object
        except OSError as error:
            raise self.refused(f"it cannot be opened ({error.strerror}): give a readable file") from error
        self.size = os.fstat(self.stream.fileno()).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def refused(self, reason: str) -> NSTError:
        """The error to raise: the file's name, then the reason."""
        return NSTError(plain(f"{self.path}: {reason}"))

    def damaged(self, where: str) -> NSTError:
        return self.refused(f"{where}: the file is damaged or cut short; get it again")

    def unpack(self, count: int) -> None:
        """Counts every unpacked byte, whether kept or skipped: a small file could otherwise keep us busy for hours."""
        self._unpacked += count
        if self._unpacked > MOST_UNPACKED:
            raise self.refused(f"its compressed data unpacks to more than {MOST_UNPACKED} bytes, so it is refused")

    def step(self, steps: int = 1) -> None:
        """Counts the parts of the structure that a reader looks at."""
        self._steps += steps
        if self._steps > MOST_STEPS:
            raise self.refused(f"its structure takes more than {MOST_STEPS} steps to read, so it is refused")

    def read(self, offset: int, count: int, what: str = "its data") -> bytes:
        if not (0 <= offset <= self.size and 0 <= count <= self.size - offset):
            raise self.damaged(f"{what} would lie at bytes {offset} … {offset + count}, but the file has {self.size}")
        self.stream.seek(offset)
        data = self.stream.read(count)
        if len(data) != count:  # the file was shortened meanwhile
            raise self.damaged(f"{what} ends after {len(data)} of {count} bytes")
        return data

    def unsigned(self, offset: int, size: int, what: str = "a number") -> int:
        """A little-endian integer."""
        return int.from_bytes(self.read(offset, size, what), "little")


@dataclass(frozen=True)
class Tensor:
    """An array found in a file but not yet read. Check its shape before calling `load`."""

    name: str
    shape: tuple[int, ...]
    load: Callable[[], Array]
    dtype: str = "float32"

    @property
    def count(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Contents:
    """All arrays of floating-point numbers in a file, by their names in it."""

    container: str
    tensors: Mapping[str, Tensor]
    kernel_axes: str = ""  # "HWIO" or "OIHW"; empty if only the shapes tell
    others: int = 0  # further arrays, which cannot be VGG-19's convolutions
    declared: Reading | None = None  # what the attributes of a file in our own format say
    source: str = ""
    licence: str = ""
    default_order: str = "BGR"  # channel order of an Oxford network whose numbers don't tell it


def decode(data: bytes, dtype: str, byte_order: str = "<") -> Array:
    """Numbers from raw bytes; `dtype` is a key of ITEM_SIZES."""
    numbers = np.frombuffer(data, byte_order + _CODES[dtype])
    if dtype == "bfloat16":  # NumPy has no such type; its bits are the upper half of a float32's
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    return numbers
