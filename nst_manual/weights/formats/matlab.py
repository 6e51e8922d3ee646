"""MATLAB's .mat (version 5 to 7.2), as MatConvNet saves its networks: both generations of its layers.

`layers` is a cell array of structures: of the older with fields `filters` and `biases`, of the newer with `weights`, a
cell array of both; `name` is the layer's. Arrays lie column by column: a kernel is (height, width, in, out).
Variables may be compressed as a whole; they are then unpacked from their beginning as far as needed, past what is not.
"""

import zlib
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import numpy as np

from ...arrays import Array
from ..bounded_file import LARGEST_KERNEL, Contents, Tensor, WeightsFile
from ..naming import SHAPES, layers_by_name

_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC = {  # of a data element
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
_DOUBLE, _SINGLE = 6, 7
_DEEPEST = 8
_MOST_ELEMENTS = 100_000
_MOST_UNPACKED = 1 << 30  # MatConvNet's VGG-19 unpacks to 575 MB
_SMALL = 4096  # bytes of dimensions and names


def read_matlab(file: WeightsFile) -> Contents:
    order = {b"IM": "<", b"MI": ">"}.get(file.read(126, 2, "its header"))
    if order is None:
        raise file.damaged("its header does not tell the order of bytes")
    reader = _Reader(file, order)
    reader.variables()
    found = layers_by_name(file, reader.tensors)
    return Contents(
        "MatConvNet", found.pairs, found.first, found.unused + reader.unused, kernel_axes="HWIO", default_order="RGB"
    )


class _Raw:
    """Bytes of the file itself."""

    def __init__(self, file: WeightsFile, start: int, end: int) -> None:
        self.file, self.start, self.size = file, start, end - start

    def read(self, offset: int, count: int) -> bytes:
        if not 0 <= count <= self.size - offset:
            raise self.file.damaged("an array of it reaches beyond its variable")
        return self.file.read(self.start + offset, count)


class _Packed:
    """The bytes that a compressed stretch of the file unpacks to. Going back starts anew, going on does not."""

    def __init__(self, file: WeightsFile, start: int, end: int) -> None:
        self.file, self.start, self.end = file, start, end
        self.size = 1 << 40  # unknown until unpacked
        self._rewind()

    def _rewind(self) -> None:
        self._stream, self._input, self._next = zlib.decompressobj(), self.start, 0
        self._buffer = b""  # unpacked, and not yet taken: what stands at _next

    def read(self, offset: int, count: int) -> bytes:
        if offset + count > _MOST_UNPACKED:
            raise self.file.refused(f"a compressed variable of it would swell beyond {_MOST_UNPACKED} bytes: refused")
        if offset < self._next:
            self._rewind()
        while self._next < offset:
            self._next += len(self._take(min(offset - self._next, 1 << 20)))
        pieces = []
        while count:
            pieces.append(self._take(min(count, 1 << 20)))
            count -= len(pieces[-1])
            self._next += len(pieces[-1])
        return b"".join(pieces)

    def _take(self, most: int) -> bytes:
        """At least one byte, at most `most`."""
        if not self._buffer:
            waiting = self._stream.unconsumed_tail
            if not waiting:
                count = min(1 << 16, self.end - self._input)
                waiting = self.file.read(self._input, count)
                self._input += count
            try:
                self._buffer = self._stream.decompress(waiting, 1 << 18)
            except zlib.error as error:
                raise self.file.damaged("a compressed variable of it cannot be unpacked") from error
            if not self._buffer and (not waiting or self._stream.eof):
                raise self.file.damaged("a compressed variable of it ends too soon")
            if not self._buffer:
                return b""
        piece, self._buffer = self._buffer[:most], self._buffer[most:]
        self.file.unpack(len(piece))
        return piece


class _Element(NamedTuple):
    """A data element: its type, where its bytes lie, and where the next one begins."""

    kind: int
    start: int
    size: int
    after: int


class _Matrix(NamedTuple):
    kind: int
    shape: tuple[int, ...]
    name: str
    body: int
    end: int


class _Reader:
    def __init__(self, file: WeightsFile, order: str) -> None:
        self.file, self.order = file, order
        self.tensors: dict[str, Tensor] = {}
        self.unused = 0
        self._elements = 0

    def variables(self) -> None:
        """Every variable of the file; only structures and cells are looked into."""
        place = 128
        while place + 8 <= self.file.size:
            kind, size = (self._number(self.file.read(place + at, 4)) for at in (0, 4))
            start, end = place + 8, place + 8 + size
            if end > self.file.size:
                raise self.file.damaged(f"a variable of it would end at byte {end} of {self.file.size}")
            if kind == _COMPRESSED:
                source = _Packed(self.file, start, end)
                first = self._element(source, 0)
                if first.kind == _MATRIX:
                    self._network(source, first)
            elif kind == _MATRIX:
                self._network(_Raw(self.file, start, end), _Element(kind, 0, size, size))
            place = end

    def _network(self, source: "_Raw | _Packed", element: _Element) -> None:
        """A variable `layers`, or a structure with such a field (as `net.layers`)."""
        matrix = self._matrix(source, element)
        if matrix.name == "layers":
            self._layers(source, matrix, 0)
        elif matrix.kind == _STRUCT:
            for name, child in self._fields(source, matrix):
                if name == "layers":
                    self._layers(source, self._matrix(source, child), 0)

    def _layers(self, source: "_Raw | _Packed", matrix: _Matrix, depth: int) -> None:
        """Cells within cells, down to structures; each structure is a layer."""
        if depth > _DEEPEST:
            raise self.file.damaged("its cells lie too deep in one another")
        if matrix.kind == _CELL:
            for child in self._children(source, matrix.body, matrix.end):
                self._layers(source, self._matrix(source, child), depth + 1)
                if len(self.tensors) == 2 * len(SHAPES):
                    return  # all convolutions found: the classifier behind them need not be unpacked
        elif matrix.kind == _STRUCT:
            self._layer(source, matrix)

    def _layer(self, source: "_Raw | _Packed", matrix: _Matrix) -> None:
        name, arrays = "", []
        for label, child in self._fields(source, matrix):
            if label == "name":
                name = self._string(source, self._matrix(source, child))
            elif label in ("filters", "biases"):
                arrays.append(self._matrix(source, child))
            elif label == "weights":
                cell = self._matrix(source, child)
                if cell.kind == _CELL:
                    arrays += [self._matrix(source, item) for item in self._children(source, cell.body, cell.end)]
        for role, array in zip(("weight", "bias"), arrays, strict=False):
            if name in SHAPES and array.kind in (_DOUBLE, _SINGLE):
                shape = array.shape if role == "weight" else (prod(array.shape),)
                self.tensors[f"{name}/{role}"] = self._tensor(source, f"{name}/{role}", shape, array)
            else:
                self.unused += 1

    def _tensor(self, source: "_Raw | _Packed", name: str, shape: tuple[int, ...], array: _Matrix) -> Tensor:
        def load() -> Array:
            data = self._element(source, array.body)
            dtype = _NUMERIC.get(data.kind)
            if dtype is None or data.size != tensor.count * int(dtype[1]) or tensor.count > LARGEST_KERNEL:
                raise self.file.damaged(f"{name[:80]} has {data.size} bytes, which do not fit its shape {shape}")
            numbers = np.frombuffer(source.read(data.start, data.size), self.order + dtype)
            return numbers.reshape(shape, order="F")

        tensor = Tensor(name, shape, load, "float64" if array.kind == _DOUBLE else "float32")
        return tensor

    # Structures

    def _fields(self, source: "_Raw | _Packed", matrix: _Matrix) -> Iterator[tuple[str, _Element]]:
        """(name, element) of a structure of one by one."""
        length = self._element(source, matrix.body)
        names = self._element(source, length.after)
        width = self._number(source.read(length.start, 4)) if length.size == 4 else 0
        if not 0 < width <= 64 or names.size % width or names.size > _SMALL * 4:
            raise self.file.damaged("the names of a structure of it cannot be read")
        text = source.read(names.start, names.size)
        labels = [text[at : at + width].split(b"\0")[0].decode("latin-1") for at in range(0, len(text), width)]
        yield from zip(labels, self._children(source, names.after, matrix.end), strict=False)

    def _children(self, source: "_Raw | _Packed", place: int, end: int) -> Iterator[_Element]:
        while place + 8 <= end:
            element = self._element(source, place)
            if element.after > end:
                raise self.file.damaged("an array of it reaches beyond what holds it")
            yield element
            place = element.after

    def _matrix(self, source: "_Raw | _Packed", element: _Element) -> _Matrix:
        """An array's flags, dimensions and name; its body is read only when asked for."""
        if element.kind != _MATRIX:
            raise self.file.damaged("an array of it is missing")
        end = element.start + element.size
        if element.size == 0:
            return _Matrix(0, (0,), "", end, end)
        flags = self._element(source, element.start)
        sizes = self._element(source, flags.after)
        name = self._element(source, sizes.after)
        if flags.size != 8 or sizes.size > 32 or sizes.size % 4 or name.size > _SMALL or name.after > end:
            raise self.file.damaged("the head of an array of it cannot be read")
        word = self._number(source.read(flags.start, 4))
        dimensions = np.frombuffer(source.read(sizes.start, sizes.size), f"{self.order}i4")
        shape = tuple(int(size) for size in dimensions)
        if min(shape, default=-1) < 0:
            raise self.file.damaged("an array of it has a negative size")
        return _Matrix(word & 255, shape, source.read(name.start, name.size).decode("latin-1"), name.after, end)

    def _string(self, source: "_Raw | _Packed", matrix: _Matrix) -> str:
        if matrix.kind != _CHAR:
            return ""
        data = self._element(source, matrix.body)
        wide = "utf-16-le" if self.order == "<" else "utf-16-be"
        encoding = {1: "latin-1", 2: "latin-1", 16: "latin-1", 4: wide}.get(data.kind)
        if encoding is None or data.size > _SMALL:
            return ""
        return source.read(data.start, data.size).decode(encoding, "replace")

    def _element(self, source: "_Raw | _Packed", place: int) -> _Element:
        """The tag of a data element: type and size in 4 bytes each, or both in 4 with up to 4 bytes of data behind."""
        self._elements += 1
        if self._elements > _MOST_ELEMENTS:
            raise self.file.refused("it has far more arrays than weights need: refused")
        tag = source.read(place, 8)
        word = self._number(tag[:4])
        if word >> 16:
            if word >> 16 > 4:
                raise self.file.damaged("a short element of it is too long")
            return _Element(word & 0xFFFF, place + 4, word >> 16, place + 8)
        size = self._number(tag[4:])
        if size > source.size - place - 8:
            raise self.file.damaged("an array of it reaches beyond its variable")
        return _Element(word, place + 8, size, place + 8 + -(-size // 8) * 8)

    def _number(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self.order == "<" else "big")
