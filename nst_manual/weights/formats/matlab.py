"""MATLAB's .mat (version 5 to 7.2) as MatConvNet saves its networks, in both generations of its layers.

`layers` is a cell array of structures. Older ones have the fields `filters` and `biases`, newer ones `weights`, a cell
array of both; `name` is the layer's. Arrays are stored column by column: a kernel is (height, width, in, out).
A variable may be compressed as a whole; it is then unpacked from its start as far as needed.
"""

import zlib
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import numpy as np

from ...arrays import Array
from ..bounded_file import LARGEST_KERNEL, Contents, Tensor, WeightsFile
from ..naming import SHAPES

_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_DOUBLE, _SINGLE = 6, 7
_NUMERIC = {  # of a data element
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
_DEEPEST = 8
_SMALL = 4096  # bytes of a name
_LOOK_BACK = 1 << 16  # bytes kept unpacked, since the head of an array is read to its end and then once more


def read_matlab(file: WeightsFile) -> Contents:
    order = {b"IM": "<", b"MI": ">"}.get(file.read(126, 2, "its header"))
    if order is None:
        raise file.damaged("its header does not give its byte order")
    tensors: dict[str, Tensor] = {}
    others, place = 0, 128
    while place + 8 <= file.size:
        file.step()
        kind, size = np.frombuffer(file.read(place, 8), f"{order}u4").tolist()
        start, place = place, place + 8 + size
        if place > file.size:
            raise file.damaged(f"one of its variables would end at byte {place} of {file.size}")
        if kind not in (_COMPRESSED, _MATRIX):
            continue
        source = _Raw(file, start, place) if kind == _MATRIX else _Packed(file, start + 8, place)
        variable = _Variable(file, order, source)
        for layer, arrays in variable.layers():
            for role, array in zip(("weight", "bias"), arrays, strict=False):
                if layer in SHAPES and array.kind in (_DOUBLE, _SINGLE):
                    tensors[f"{layer}/{role}"] = variable.tensor(f"{layer}/{role}", array)
                else:
                    others += 1
            if len(tensors) == 2 * len(SHAPES):
                break  # the classifier behind them need not be unpacked
    return Contents("MatConvNet", tensors, "HWIO", others=others, default_order="RGB")


class _Raw:
    """The bytes of an uncompressed variable."""

    def __init__(self, file: WeightsFile, start: int, end: int) -> None:
        self.file, self.start, self.size = file, start, end - start

    def read(self, offset: int, count: int) -> bytes:
        if not 0 <= count <= self.size - offset:
            raise self.file.damaged("one of its arrays reaches beyond its variable")
        return self.file.read(self.start + offset, count)


class _Packed:
    """The bytes of a compressed variable. Reading far back starts again at its beginning; reading on does not."""

    def __init__(self, file: WeightsFile, start: int, end: int) -> None:
        self.file, self.start, self.end = file, start, end
        self.size = 1 << 40  # unknown until everything is unpacked
        self._rewind()

    def _rewind(self) -> None:
        self._stream, self._input = zlib.decompressobj(), self.start
        self._held, self._at = bytearray(), 0  # unpacked bytes, and the place of the first of them

    def read(self, offset: int, count: int) -> bytes:
        if offset < self._at:
            self._rewind()
        while self._at + len(self._held) < offset + count:
            spare = min(offset - self._at, len(self._held)) - _LOOK_BACK
            if spare > 0:
                del self._held[:spare]
                self._at += spare
            self._held += self._more()
        return bytes(memoryview(self._held)[offset - self._at : offset - self._at + count])

    def _more(self) -> bytes:
        waiting = self._stream.unconsumed_tail
        if not waiting:
            waiting = self.file.read(self._input, min(1 << 16, self.end - self._input))
            self._input += len(waiting)
        try:
            piece = self._stream.decompress(waiting, 1 << 18)
        except zlib.error as error:
            raise self.file.damaged("one of its compressed variables cannot be unpacked") from error
        if not piece and (not waiting or self._stream.eof):
            raise self.file.damaged("one of its compressed variables ends too soon")
        self.file.unpack(len(piece))
        return piece


class _Element(NamedTuple):
    """A data element: its type, where its bytes lie, and where the next one begins."""

    kind: int
    start: int
    size: int
    after: int


class _Matrix(NamedTuple):
    """An array's head; its body is read only when it is needed."""

    kind: int
    shape: tuple[int, ...]
    name: str
    body: int
    end: int


class _Variable:
    """One variable of the file, and the network's layers in it."""

    def __init__(self, file: WeightsFile, order: str, source: _Raw | _Packed) -> None:
        self.file, self.order, self.source = file, order, source

    def layers(self) -> Iterator[tuple[str, list[_Matrix]]]:
        """(name, arrays) of each layer in a variable `layers`, or in a field of that name (such as `net.layers`)."""
        element = self.element(0)
        if element.kind != _MATRIX:
            return
        matrix = self._matrix(element)
        if matrix.name == "layers":
            yield from self._layers(matrix, 0)
        elif matrix.kind == _STRUCT:
            for name, child in self._fields(matrix):
                if name == "layers":
                    yield from self._layers(self._matrix(child), 0)

    def _layers(self, matrix: _Matrix, depth: int) -> Iterator[tuple[str, list[_Matrix]]]:
        """Descends through cells within cells to structures; each structure is a layer."""
        if depth > _DEEPEST:
            raise self.file.damaged("its cells are nested too deep")
        if matrix.kind == _CELL:
            for child in self._children(matrix.body, matrix.end):
                yield from self._layers(self._matrix(child), depth + 1)
        elif matrix.kind == _STRUCT:
            yield self._layer(matrix)

    def _layer(self, matrix: _Matrix) -> tuple[str, list[_Matrix]]:
        name, arrays = "", []
        for label, child in self._fields(matrix):
            if label == "name":
                name = self._string(self._matrix(child))
            elif label in ("filters", "biases"):
                arrays.append(self._matrix(child))
            elif label == "weights":
                cell = self._matrix(child)
                if cell.kind == _CELL:
                    arrays += [self._matrix(item) for item in self._children(cell.body, cell.end)]
        return name, arrays

    def tensor(self, name: str, array: _Matrix) -> Tensor:
        shape = array.shape if name.endswith("weight") else (prod(array.shape),)

        def load() -> Array:
            data = self.element(array.body)
            dtype = _NUMERIC.get(data.kind)
            if dtype is None or data.size != prod(shape) * int(dtype[1]) or prod(shape) > LARGEST_KERNEL:
                raise self.file.damaged(f"{name} has {data.size} bytes, which do not fit its shape {shape}")
            numbers = np.frombuffer(self.source.read(data.start, data.size), self.order + dtype)
            return numbers.reshape(shape, order="F")

        return Tensor(name, shape, load, "float64" if array.kind == _DOUBLE else "float32")

    def _fields(self, matrix: _Matrix) -> Iterator[tuple[str, _Element]]:
        """The (name, element) pairs of a single structure."""
        length = self.element(matrix.body)
        names = self.element(length.after)
        width = self._numbers(length, "u4")[0] if length.size == 4 else 0
        if not 0 < width <= 64 or names.size % width or names.size > 4 * _SMALL:
            raise self.file.damaged("the names in one of its structures cannot be read")
        self.file.step(names.size // width)
        text = self.source.read(names.start, names.size)
        labels = [text[at : at + width].split(b"\0")[0].decode("latin-1") for at in range(0, len(text), width)]
        yield from zip(labels, self._children(names.after, matrix.end), strict=False)

    def _children(self, place: int, end: int) -> Iterator[_Element]:
        while place + 8 <= end:
            element = self.element(place)
            if element.after > end:
                raise self.file.damaged("one of its arrays reaches beyond the one that holds it")
            yield element
            place = element.after

    def _matrix(self, element: _Element) -> _Matrix:
        if element.kind != _MATRIX:
            raise self.file.damaged("one of its arrays is missing")
        end = element.start + element.size
        if element.size == 0:
            return _Matrix(0, (0,), "", end, end)
        flags = self.element(element.start)
        sizes = self.element(flags.after)
        name = self.element(sizes.after)
        if flags.size != 8 or sizes.size > 32 or sizes.size % 4 or name.size > _SMALL or name.after > end:
            raise self.file.damaged("the head of one of its arrays cannot be read")
        shape = tuple(self._numbers(sizes, "i4"))
        if min(shape, default=-1) < 0:
            raise self.file.damaged("one of its arrays has a negative size")
        kind = self._numbers(flags, "u4")[0] & 255
        return _Matrix(kind, shape, self.source.read(name.start, name.size).decode("latin-1"), name.after, end)

    def _string(self, matrix: _Matrix) -> str:
        if matrix.kind != _CHAR:
            return ""
        data = self.element(matrix.body)
        wide = "utf-16-le" if self.order == "<" else "utf-16-be"
        encoding = {1: "latin-1", 2: "latin-1", 16: "latin-1", 4: wide}.get(data.kind)
        if encoding is None or data.size > _SMALL:
            return ""
        return self.source.read(data.start, data.size).decode(encoding, "replace")

    def element(self, place: int) -> _Element:
        """The tag of a data element: type and size in 4 bytes each, or both in 4 followed by up to 4 bytes of data."""
        self.file.step()
        word, size = np.frombuffer(self.source.read(place, 8), f"{self.order}u4").tolist()
        if word >> 16:
            if word >> 16 > 4:
                raise self.file.damaged("one of its short elements is too long")
            return _Element(word & 0xFFFF, place + 4, word >> 16, place + 8)
        if size > self.source.size - place - 8:
            raise self.file.damaged("one of its arrays reaches beyond its variable")
        return _Element(word, place + 8, size, place + 8 + -(-size // 8) * 8)

    def _numbers(self, element: _Element, dtype: str) -> list[int]:
        data = self.source.read(element.start, element.size)
        return [int(number) for number in np.frombuffer(data, self.order + dtype)]
