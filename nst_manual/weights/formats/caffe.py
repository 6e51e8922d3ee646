"""Caffe's .caffemodel: a protocol buffer (message NetParameter), walked field by field without reading the arrays.

Both generations of layer message: `layers` (V1LayerParameter, field 2) and `layer` (LayerParameter, field 100). A blob
has its shape in `shape` or in the older num, channels, height, width; its numbers are packed or one field each.
"""

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import numpy as np

from ...arrays import Array
from ..bounded_file import Contents, Tensor, WeightsFile
from ..naming import SHAPES

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NET_LAYERS = {2: (4, 6), 100: (1, 7)}  # field of the net: (field of the layer's name, of its blobs)
_BLOB_DATA, _BLOB_SHAPE, _BLOB_DOUBLE = 5, 7, 8
_MOST_PIECES = 64
_MOST_DIMENSIONS = 8


class Field(NamedTuple):
    """One field of a message: its number, its wire type, its value or size, and where its bytes lie.

    Old files keep an array as a run of 32-bit fields with the same number. Such a run is one Field, in which each
    number takes five bytes, its key before it.
    """

    number: int
    wire: int
    value: int
    start: int
    end: int


class Fields:
    """Walks the fields of a message without reading their contents."""

    def __init__(self, file: WeightsFile) -> None:
        self.file = file
        self._window, self._window_start = b"", 0

    def __call__(self, start: int, end: int) -> Iterator[Field]:
        while start < end:
            self.file.step()
            key, place = self.varint(start, end)
            number, wire, value, first = key >> 3, key & 7, 0, place
            if wire == _VARINT:
                value, after = self.varint(place, end)
            elif wire == _FIXED64:
                after = place + 8
            elif wire == _FIXED32:
                first = place - 1  # a run's keys have one byte
                after = place + 4 if place - start > 1 else self._run(start, end)
            elif wire == _BYTES:
                value, first = self.varint(place, end)
                after = first + value
            else:
                raise self.file.damaged(f"a field of its protocol buffer has the unknown type {wire}")
            if not start < after <= end or number == 0:
                raise self.file.damaged("a field of its protocol buffer reaches beyond its message")
            yield Field(number, wire, value, first, after)
            start = after

    def _run(self, start: int, end: int) -> int:
        """The end of a run of fields of five bytes that all begin with the same key."""
        key = self.file.read(start, 1)[0]
        window = 64  # numbers; it doubles as the run goes on, because most fields are alone
        while start + 5 <= end:
            keys = np.frombuffer(self.file.read(start, min(end - start, 5 * window) // 5 * 5), np.uint8)[::5]
            window = min(2 * window, 1 << 18)
            others = np.flatnonzero(keys != key)
            if others.size:
                return start + 5 * int(others[0])
            start += 5 * keys.size
        return start

    def varint(self, place: int, end: int) -> tuple[int, int]:
        """(value, place behind it)"""
        value = shift = 0
        while place < end and shift < 70:
            if not self._window_start <= place < self._window_start + len(self._window):
                self._window = self.file.read(place, min(4096, self.file.size - place))
                self._window_start = place
            byte = self._window[place - self._window_start]
            value |= (byte & 127) << shift
            place, shift = place + 1, shift + 7
            if byte < 128:
                return value, place
        raise self.file.damaged("a number of its protocol buffer does not end")


def read_caffe(file: WeightsFile) -> Contents:
    fields = Fields(file)
    tensors: dict[str, Tensor] = {}
    blobs_in_all = 0
    for net in fields(0, file.size):
        if net.number not in _NET_LAYERS or net.wire != _BYTES:
            continue
        name_field, blob_field = _NET_LAYERS[net.number]
        name, blobs = "", []
        for part in fields(net.start, net.end):
            if part.number == name_field and part.wire == _BYTES and part.value < 1000:
                name = file.read(part.start, part.value).decode("utf-8", "replace")
            elif part.number == blob_field and part.wire == _BYTES:
                blobs.append((part.start, part.end))
        blobs_in_all += len(blobs)
        if len(blobs) == 2 and name in SHAPES:
            for role, place in zip(("weight", "bias"), blobs, strict=True):
                tensors[f"{name}/{role}"] = _blob(file, fields, f"{name}/{role}", *place)
    return Contents("Caffe", tensors, "OIHW", others=blobs_in_all - len(tensors))


def _blob(file: WeightsFile, fields: Fields, name: str, start: int, end: int) -> Tensor:
    """The shape comes from `shape`, or from fields 1 … 4 in older files."""
    old = [0, 0, 0, 0]
    shape: tuple[int, ...] | None = None
    data: list[Field] = []
    for part in fields(start, end):
        if part.number in (1, 2, 3, 4) and part.wire == _VARINT:
            old[part.number - 1] = part.value
        elif part.number == _BLOB_SHAPE and part.wire == _BYTES:
            shape = _shape(file, fields, part)
        elif part.number == _BLOB_DATA and part.wire in (_BYTES, _FIXED32):
            data.append(part)
            if len(data) > _MOST_PIECES:
                raise file.refused(f"the numbers of {name} are split into too many pieces: save the network again")
        elif part.number == _BLOB_DOUBLE:
            raise file.refused(f"{name} holds float64 numbers, but Caffe's VGG-19 has float32: convert them")
    if shape is None:  # a bias is 1 × 1 × 1 × its length
        shape = tuple(old) if old[:3] != [1, 1, 1] else (old[3],)

    def load() -> Array:
        size = sum((part.end - part.start) * (5 if part.wire == _BYTES else 4) // 5 for part in data)  # keys left out
        if size != 4 * prod(shape):
            raise file.damaged(f"{name} has {size // 4} numbers, but its shape {shape} needs {prod(shape)}")
        pieces = []
        for part in data:
            piece = np.frombuffer(file.read(part.start, part.end - part.start, name), np.uint8)
            pieces.append(piece if part.wire == _BYTES else piece.reshape(-1, 5)[:, 1:].reshape(-1))
        return np.concatenate(pieces).view("<f4").reshape(shape)

    return Tensor(name, shape, load)


def _shape(file: WeightsFile, fields: Fields, field: Field) -> tuple[int, ...]:
    """BlobShape: `dim`, field 1, packed or one by one."""
    shape: list[int] = []
    for part in fields(field.start, field.end):
        if part.number == 1 and part.wire == _VARINT:
            shape.append(part.value)
        elif part.number == 1 and part.wire == _BYTES:
            place = part.start
            while place < part.end and len(shape) <= _MOST_DIMENSIONS:
                size, place = fields.varint(place, part.end)
                shape.append(size)
        if len(shape) > _MOST_DIMENSIONS:
            raise file.damaged(f"one of its blobs has more than {_MOST_DIMENSIONS} dimensions")
    return tuple(shape)
