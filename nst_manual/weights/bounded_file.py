"""What a reader needs of a file: bytes at checked offsets, and the tensors it found there, not yet read.

A weights file is hostile until proved otherwise: every count and offset in it is compared with the file's size before
memory is taken, and a number array is only read when somebody asks for that array.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..arrays import Array
from ..errors import NSTError

BFLOAT16 = "bfloat16"  # NumPy has no such type: its bits are the upper half of a float32's
_CODES = {"float16": "f2", "float32": "f4", "float64": "f8"}
ITEM_SIZES = {"float16": 2, BFLOAT16: 2, "float32": 4, "float64": 8}
MOST_UNPACKED = 4 << 30  # bytes; MatConvNet's VGG-19 takes a tenth of it
LARGEST_KERNEL = 3 * 3 * 512 * 512  # of VGG-19's convolutions, in numbers: nothing larger is ever read


def plain(text: str) -> str:
    """Text from a file may hold anything, also what a terminal obeys."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class WeightsFile:
    """An open file. Every read is within it, or an NSTError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unpacked = 0
        try:
            self._file = path.open("rb")
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise NSTError(f"{path}: the file cannot be opened ({error.strerror}): give a readable one") from error

    def __enter__(self) -> "WeightsFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def refused(self, reason: str) -> NSTError:
        """The error to raise, with the file's name before the reason; names in a file may hold anything."""
        return NSTError(f"{self.path}: {plain(reason)}")

    def damaged(self, where: str) -> NSTError:
        return self.refused(f"{where}: the file is damaged or cut short; get it again")

    def unpack(self, count: int) -> None:
        """To be told of every unpacked byte, kept or passed over: a small file can unpack to time without end."""
        self._unpacked += count
        if self._unpacked > MOST_UNPACKED:
            raise self.refused(f"what it holds swells beyond {MOST_UNPACKED} bytes: refused")

    def read(self, offset: int, count: int, what: str = "its data") -> bytes:
        if not (0 <= offset <= self.size and 0 <= count <= self.size - offset):
            raise self.damaged(f"{what} would lie at bytes {offset} … {offset + count}, but the file has {self.size}")
        self._file.seek(offset)
        data = self._file.read(count)
        if len(data) != count:  # somebody shortened it meanwhile
            raise self.damaged(f"{what} ends after {len(data)} of {count} bytes")
        return data

    def unsigned(self, offset: int, size: int, what: str = "a number") -> int:
        """A little-endian integer."""
        return int.from_bytes(self.read(offset, size, what), "little")

    @property
    def stream(self) -> Any:
        """The file object itself, for libraries that want one."""
        return self._file


@dataclass(frozen=True)
class Tensor:
    """An array found in a file. `load` reads it, as stored; whoever calls it has looked at the shape first."""

    name: str
    shape: tuple[int, ...]
    load: Callable[[], Array]
    dtype: str = "float32"

    @property
    def count(self) -> int:
        return int(np.prod(self.shape, dtype=object))  # Python's integers do not overflow


@dataclass(frozen=True)
class Declared:
    """What our own format says of itself in its attributes."""

    family: str
    channel_order: str
    mean: tuple[float, float, float]
    source: str
    licence: str


@dataclass(frozen=True)
class Contents:
    """A file's convolutions: for each layer its kernel, 4-D, and its bias."""

    container: str
    tensors: Mapping[str, tuple[Tensor, Tensor]]
    first: tuple[Tensor, Tensor] | None = None  # a 1×1 convolution before conv1_1, as AdaIN's networks have
    unused: int = 0  # arrays in the file that are none of VGG-19's convolutions
    declared: Declared | None = None
    kernel_axes: str = ""  # "HWIO" or "OIHW"; empty: to be seen from the shapes
    default_order: str = "BGR"  # of an Oxford network that its numbers do not settle
    notes: tuple[str, ...] = field(default=())


def decode(data: bytes, dtype: str, byte_order: str = "<") -> Array:
    """Numbers from raw bytes; `dtype` is one of ITEM_SIZES."""
    if dtype == BFLOAT16:
        return (np.frombuffer(data, byte_order + "u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, byte_order + _CODES[dtype])


def raw_tensor(file: WeightsFile, name: str, shape: tuple[int, ...], dtype: str, offset: int) -> Tensor:
    """An array that lies in the file as it is, little-endian, the last axis quickest."""
    tensor = Tensor(name, shape, lambda: decode(file.read(offset, size, name), dtype).reshape(shape), dtype)
    size = tensor.count * ITEM_SIZES[dtype]
    return tensor
