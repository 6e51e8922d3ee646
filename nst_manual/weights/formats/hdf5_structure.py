"""HDF5's own structure, read without the HDF5 library: groups, attributes of the root, and arrays of numbers.

The library trusts a file: one changed byte can cost it minutes or any amount of memory. This reader knows what weights
files consist of (hard links, contiguous and chunked arrays; gzip, shuffle and checksums) and refuses the rest: other
files' data, soft links, references, virtual arrays. It visits every structure once. Names are those of the "HDF5 File
Format Specification"; all integers are little-endian, and addresses and lengths have 8 bytes.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import numpy as np

from ...arrays import Array
from ..bounded_file import ITEM_SIZES, Tensor, WeightsFile, decode

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NOWHERE = (1 << 64) - 1
_MOST_STEPS = 50_000  # links, messages and index entries in all; Keras' files have a few hundred
_MOST_BYTES = 1 << 24  # of structure, overlapping or not; Keras' files have less than a megabyte
_LONGEST_PATH = 1000  # letters
_LARGEST_BLOCK = 1 << 22
_LARGEST_HEAP = 1 << 18  # bytes of names; Keras' groups have 1 kB
_LARGEST_DIRECT = 1 << 16  # bytes of a fractal heap's block, HDF5's own default
_DEEPEST = 12
_ATTRIBUTES = frozenset(("format", "layout", "channel_order", "mean", "family", "source", "licence"))
_FLOATS = {  # (bytes, bits of the fraction, of the exponent, its bias)
    (2, 10, 5, 15): "float16", (2, 7, 8, 127): "bfloat16", (4, 23, 8, 127): "float32", (8, 52, 11, 1023): "float64",
}  # fmt: skip
_DEFLATE, _SHUFFLE, _FLETCHER = 1, 2, 3
_FILTERS = {_DEFLATE: "gzip", _SHUFFLE: "shuffle", _FLETCHER: "fletcher32"}


def start_of_hdf5(file: WeightsFile) -> int | None:
    """Where the signature is: at 0, or after a user block of 512, 1024, … bytes."""
    place = 0
    while place + 8 <= file.size and place <= 1 << 20:
        if file.read(place, 8) == SIGNATURE:
            return place
        place = max(512, 2 * place)
    return None


def read_structure(file: WeightsFile) -> "HDF5":
    """Everything that hard links lead to; the arrays are not read yet."""
    start = start_of_hdf5(file)
    if start is None:
        raise file.damaged("its HDF5 signature is missing")
    version = file.unsigned(start + 8, 1)
    if version in (0, 1):
        sizes, tail = file.read(start + 13, 2), start + (24 if version == 0 else 28)
        base, root = file.unsigned(tail, 8), file.unsigned(tail + 40, 8)
    elif version in (2, 3):
        sizes, base, root = file.read(start + 9, 2), file.unsigned(start + 12, 8), file.unsigned(start + 36, 8)
    else:
        raise file.damaged(f"its HDF5 superblock has the unknown version {version}")
    if sizes != b"\x08\x08":
        raise file.refused("its HDF5 addresses do not have 8 bytes: save it again with h5py")
    structure = HDF5(file, base)
    structure.walk(root, "", ())
    return structure


class _Message(NamedTuple):
    kind: int
    shared: bool
    data: bytes


class _Link(NamedTuple):
    name: str
    kind: int
    address: int


@dataclass
class HDF5:
    """The arrays of a file by their paths, and those attributes of its root that are text or numbers."""

    file: WeightsFile
    base: int
    datasets: dict[str, Tensor] = field(default_factory=dict)
    attributes: dict[str, str | tuple[float, ...]] = field(default_factory=dict)
    visited: set[int] = field(default_factory=set)
    steps: int = 0
    taken: int = 0

    def walk(self, address: int, path: str, above: tuple[int, ...]) -> None:
        if address in above:
            raise self.file.refused(f"its group {path[:80]} contains itself, so it is refused")
        if address in self.visited:
            return  # a second name of something already seen
        self.visited.add(address)
        if len(above) > _DEEPEST:
            raise self.file.refused("its groups are nested deeper than weights need, so it is refused")
        messages = self.messages(address)
        for message in messages:
            if message.kind == 0x0C and not path:
                self.attribute(message)
        if any(message.kind == 0x08 for message in messages):
            self.datasets[path] = self.dataset(path, messages)
        for link in self.links(messages):
            self.step()
            below = f"{path}/{link.name}".lstrip("/")
            if len(below) > _LONGEST_PATH:
                raise self.file.refused("a name in it is far longer than weights need, so it is refused")
            if link.kind != 0:
                what = {1: "a soft link", 64: "a link into another file"}.get(link.kind, "a link of an unknown kind")
                raise self.file.refused(f"{below[:80]} is {what}, which weights do not need, so it is refused")
            self.walk(link.address, below, (*above, address))

    # Bytes

    def step(self, steps: int = 1, count: int = 0) -> None:
        """Limits the time and memory that a small file can cost, since structures may overlap."""
        self.steps, self.taken = self.steps + steps, self.taken + count
        if self.steps > _MOST_STEPS or self.taken > _MOST_BYTES:
            raise self.file.refused("its HDF5 structure is far larger than weights need, so it is refused")

    def span(self, address: int, count: int, what: str) -> bytes:
        if count > _LARGEST_BLOCK:
            raise self.file.damaged(f"{what} of {count} bytes in its HDF5 structure")
        self.step(0, count)
        return self.file.read(self.base + address, count, what)

    def block(self, address: int, signature: bytes, count: int) -> "_Cursor":
        data = self.span(address, count, f"its {signature.decode()} block")
        if not data.startswith(signature):
            raise self.file.damaged(f"a {signature.decode()} block is missing in its HDF5 structure")
        return _Cursor(self.file, data, len(signature))

    # Object headers

    def messages(self, address: int) -> list[_Message]:
        head = self.span(address, 16, "an object header")
        messages: list[_Message] = []
        if head.startswith(b"OHDR"):
            flags = head[5]
            start = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
            width = 1 << (flags & 3)
            size = int.from_bytes(self.span(address + start, width, "an object header"), "little")
            blocks = [(address + start + width, size)]
        elif head[0] == 1:
            flags, blocks = None, [(address + 16, int.from_bytes(head[8:12], "little"))]
        else:
            raise self.file.damaged("an object header is missing in its HDF5 structure")
        front = 8 if flags is None else 6 if flags & 4 else 4  # bytes in front of a message
        seen = set()
        while blocks:
            place, size = blocks.pop(0)
            if place in seen:
                raise self.file.damaged("an object header of its HDF5 structure continues into itself")
            seen.add(place)
            cursor = _Cursor(self.file, self.span(place, size, "an object header"))
            while cursor.left >= front:
                self.step()
                kind, size, shared = cursor.numbers(2 if flags is None else 1, 2, 1)
                data = cursor.skip(front - (5 if flags is None else 4)).take(size)
                if kind == 0x10:
                    start, length = _Cursor(self.file, data).numbers(8, 8)
                    if flags is not None:  # between the signature "OCHK" and a checksum
                        self.block(start, b"OCHK", 4)
                        start, length = start + 4, max(length - 8, 0)
                    blocks.append((start, length))
                else:
                    messages.append(_Message(kind, bool(shared & 2), data))
        return messages

    # Groups

    def links(self, messages: list[_Message]) -> Iterator[_Link]:
        for message in messages:
            cursor = _Cursor(self.file, message.data)
            if message.kind == 0x11:
                yield from self.symbol_table(*cursor.numbers(8, 8))
            elif message.kind == 0x06:
                yield cursor.link()
            elif message.kind == 0x02:
                flags = cursor.skip(1).number(1)
                heap = cursor.skip(8 if flags & 1 else 0).number(8)
                if heap != _NOWHERE:
                    yield from self.fractal_heap(heap)

    def symbol_table(self, tree: int, heap: int) -> Iterator[_Link]:
        size, _, data = self.block(heap, b"HEAP", 32).skip(4).numbers(8, 8, 8)
        if size > _LARGEST_HEAP:
            raise self.file.refused(f"a group in it has {size} bytes of names, far more than weights need")
        names = self.span(data, size, "its names")
        for _, child in self.tree_leaves(tree, 0, 8):
            count = self.block(child, b"SNOD", 8).skip(2).number(2)
            cursor = self.block(child, b"SNOD", 8 + 40 * count).skip(4)
            for _ in range(count):
                offset, address, cached, _ = cursor.numbers(8, 8, 4, 20)
                end = names.find(b"\0", offset)
                if offset >= size or end < 0:
                    raise self.file.damaged("a name is missing in its HDF5 structure")
                yield _Link(_text(names[offset:end]), 1 if cached == 2 else 0, address)

    def tree_leaves(self, root: int, kind: int, key_size: int) -> Iterator[tuple[bytes, int]]:
        """(key, child's address) of each entry in the lowest nodes of a version 1 B-tree."""
        pending, seen = [root], set()
        while pending:
            address = pending.pop()
            if address in seen:
                raise self.file.damaged("an index of its HDF5 structure leads back into itself")
            seen.add(address)
            found, level, count = self.block(address, b"TREE", 24).numbers(1, 1, 2)
            if found != kind:
                raise self.file.damaged("an index of its HDF5 structure is of the wrong kind")
            cursor = _Cursor(self.file, self.span(address + 24, count * (key_size + 8), "an index"))
            for _ in range(count):
                self.step()
                key, child = cursor.take(key_size), cursor.number(8)
                if level:
                    pending.append(child)
                else:
                    yield key, child

    def fractal_heap(self, address: int) -> Iterator[_Link]:
        """The links of a large group in the newer format, whose heap blocks hold link messages one after another."""
        head = self.block(address, b"FRHP", 146).skip(3)
        filters, flags, _, left = head.numbers(2, 1, 4 + 8 * 7, 8)  # left: objects to be found
        width, first, largest, heap_bits, _, root, rows = head.skip(32).numbers(2, 8, 8, 2, 2, 8, 2)
        if filters or not 1 <= width <= 64 or not 64 <= first <= largest <= _LARGEST_DIRECT or rows > 32:
            raise self.file.refused("a group in it is stored in an unusual format: save it again with h5py")
        front = 5 + 8 + (heap_bits + 7) // 8
        blocks = [(root, first)]
        if rows:
            cursor = self.block(root, b"FHIB", front + rows * width * 8).skip(front - 4)
            sizes = [first << max(row - 1, 0) for row in range(rows) for _ in range(width)]
            blocks = [(cursor.number(8), size) for size in sizes]
        for block, size in blocks:
            self.step()
            if block == _NOWHERE or size > largest:
                continue
            cursor = self.block(block, b"FHDB", size).skip(front - 4 + (4 if flags & 2 else 0))
            while left and cursor.left and cursor.peek() == 1:
                yield cursor.link()
                left -= 1
        if left:
            raise self.file.refused("a group in it was changed after it was made: save the file again with h5py")

    # Attributes

    def attribute(self, message: _Message) -> None:
        """Keeps text and floating-point numbers of our own format's attributes and ignores all others."""
        cursor = _Cursor(self.file, message.data)
        version, _, *sizes = cursor.numbers(1, 1, 2, 2, 2)
        cursor.skip(1 if version == 3 else 0)
        name, datatype, space = (cursor.take(-(-size // 8) * 8 if version == 1 else size) for size in sizes)
        label = _text(name)
        if label not in _ATTRIBUTES or label in self.attributes:
            return
        count = prod(_shape(_Cursor(self.file, space)) or ())
        kind, bits, size = _Cursor(self.file, datatype).numbers(1, 3, 4)
        if kind & 15 == 3 and count == 1:
            self.attributes[label] = _text(cursor.take(size))
        elif kind & 15 == 9 and count == 1 and bits & 15 == 1:
            length, heap, index = cursor.numbers(4, 8, 4)
            self.attributes[label] = _text(self.heap_object(heap, index)[:length]) if length else ""
        elif count <= 16 and (dtype := _float(_Cursor(self.file, datatype))) is not None:
            self.attributes[label] = tuple(map(float, decode(cursor.take(count * size), *dtype)))

    def heap_object(self, address: int, index: int) -> bytes:
        size = self.block(address, b"GCOL", 16).skip(4).number(8)
        cursor = self.block(address, b"GCOL", size).skip(12)
        while cursor.left >= 16:
            self.step()
            number, _, length = cursor.numbers(2, 6, 8)
            if number == index:
                return cursor.take(length)
            if number == 0:
                break
            cursor.skip(-(-length // 8) * 8)
        raise self.file.damaged("a text is missing in its HDF5 structure")

    # Arrays

    def dataset(self, path: str, messages: list[_Message]) -> Tensor:
        """Its shape, and how to read it. One that does not hold floating-point numbers is listed but cannot be read."""
        found = {message.kind: message for message in messages}
        if any(found[kind].shared for kind in (0x01, 0x03, 0x08, 0x0B) if kind in found):
            raise self.file.refused(f"{path[:80]} shares its type with other arrays: save it again with h5py")
        if not {0x01, 0x03, 0x08} <= found.keys():
            raise self.file.damaged(f"{path[:80]} has no shape or no type")
        if 0x07 in found:
            raise self.file.refused(f"{path[:80]} has its numbers in another file, so it is refused")
        shape = _shape(_Cursor(self.file, found[0x01].data)) or ()
        dtype = _float(_Cursor(self.file, found[0x03].data))
        layout = found[0x08].data
        version, kind = _Cursor(self.file, layout).numbers(1, 1)
        if version not in (3, 4) or kind == 3:
            what = "a virtual array, made of other files'" if kind == 3 else "stored in an outdated format"
            raise self.file.refused(f"{path[:80]} is {what}: save it again with h5py")
        pipeline = self.filters(path, found.get(0x0B))

        def load() -> Array:
            if dtype is None:
                raise self.file.refused(f"{path[:80]} does not hold floating-point numbers: give VGG-19's weights")
            item, cursor = ITEM_SIZES[dtype[0]], _Cursor(self.file, layout, 2)
            size = prod(shape) * item
            if kind == 2 and version == 4:
                raise self.file.refused(
                    f"{path[:80]} is split into chunks in HDF5's newest format: save it with libver='earliest'"
                )
            if kind == 2:
                data = self.chunked(path, cursor, shape, item, pipeline)
            elif kind == 1:
                address, length = cursor.numbers(8, 8)
                if address == _NOWHERE or length != size:
                    raise self.file.damaged(f"{path[:80]} has {length} bytes, but its shape {shape} needs {size}")
                data = self.file.read(self.base + address, size, path)
            else:
                data = cursor.skip(2).take(size)
            return decode(data, *dtype).reshape(shape)

        return Tensor(path, shape, load, "not floating point" if dtype is None else dtype[0])

    def filters(self, path: str, message: _Message | None) -> list[int]:
        if message is None:
            return []
        cursor = _Cursor(self.file, message.data)
        version, count = cursor.numbers(1, 1)
        cursor.skip(6 if version == 1 else 0)
        pipeline = []
        for _ in range(count):
            number = cursor.number(2)
            length = cursor.number(2) if version == 1 or number >= 256 else 0
            values = cursor.skip(2).number(2)
            cursor.skip(-(-length // 8) * 8 if version == 1 else length)
            cursor.skip(4 * (values + (values % 2 if version == 1 else 0)))
            pipeline.append(number)
        if not set(pipeline) <= _FILTERS.keys() or len(set(pipeline)) != len(pipeline):
            raise self.file.refused(
                f"{path[:80]} uses filters other than {', '.join(_FILTERS.values())}: save it again with these"
            )
        return pipeline

    def chunked(self, path: str, layout: "_Cursor", shape: tuple[int, ...], item: int, pipeline: list[int]) -> bytes:
        rank, tree = layout.number(1) - 1, layout.number(8)
        chunk = tuple(layout.numbers(*[4] * rank))
        grid = prod(-(-size // part) for size, part in zip(shape, chunk, strict=False) if part)
        # Every chunk is unpacked whole, so together they may be larger than the array, but not much.
        too_large = grid * prod(chunk) > 2 * prod(shape) + 4096
        if not rank == len(shape) > 0 or not all(chunk) or too_large or tree == _NOWHERE:
            raise self.file.damaged(f"{path[:80]} is split into chunks of the impossible shape {chunk}")
        whole = np.zeros(shape, dtype=f"V{item}")
        seen: set[tuple[int, ...]] = set()
        for head, child in self.tree_leaves(tree, 1, 8 + 8 * (rank + 1)):
            length, mask, *corner = _Cursor(self.file, head).numbers(4, 4, *[8] * rank)
            misplaced = [at % part or at >= size for at, part, size in zip(corner, chunk, shape, strict=True)]
            if tuple(corner) in seen or any(misplaced):
                raise self.file.damaged(f"{path[:80]} has a chunk in a wrong place")
            seen.add(tuple(corner))
            if length > 2 * prod(chunk) * item + 4096:  # compression makes nothing much larger
                raise self.file.damaged(f"a chunk of {path[:80]} has {length} bytes")
            packed = self.file.read(self.base + child, length, path)
            data = self.unpack(path, packed, prod(chunk) * item, item, pipeline, mask)
            place = tuple(slice(at, at + part) for at, part in zip(corner, chunk, strict=True))
            target = whole[place]
            target[...] = np.frombuffer(data, whole.dtype).reshape(chunk)[tuple(slice(n) for n in target.shape)]
        if len(seen) != grid:
            raise self.file.damaged(f"{path[:80]} has {len(seen)} of its {grid} chunks")
        return whole.tobytes()

    def unpack(self, path: str, data: bytes, size: int, item: int, pipeline: list[int], mask: int) -> bytes:
        """A chunk's bytes with its filters undone. Hardly more than `size` bytes are ever unpacked."""
        for number, kind in reversed(list(enumerate(pipeline))):
            if mask >> number & 1:
                continue
            if kind == _FLETCHER:
                data = data[:-4]
            elif kind == _DEFLATE:
                self.file.unpack(size)
                try:
                    data = zlib.decompressobj().decompress(data, size + 5)
                except zlib.error as error:
                    raise self.file.damaged(f"a chunk of {path[:80]} cannot be unpacked") from error
            elif len(data) % item == 0:
                data = np.frombuffer(data, np.uint8).reshape(item, -1).T.tobytes()
        if len(data) != size:
            raise self.file.damaged(f"a chunk of {path[:80]} does not unpack to {size} bytes")
        return data


@dataclass
class _Cursor:
    """Takes little-endian numbers from bytes, one after another."""

    file: WeightsFile
    data: bytes
    place: int = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.place

    def peek(self) -> int:
        return self.data[self.place]

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise self.file.damaged("a part of its HDF5 structure ends too soon")
        self.place += count
        return self.data[self.place - count : self.place]

    def skip(self, count: int) -> "_Cursor":
        self.take(count)
        return self

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def numbers(self, *sizes: int) -> list[int]:
        return [self.number(size) for size in sizes]

    def link(self) -> _Link:
        version, flags = self.numbers(1, 1)
        kind = self.number(1) if flags & 8 else 0
        self.skip((8 if flags & 4 else 0) + (1 if flags & 16 else 0))
        name = self.take(self.number(1 << (flags & 3))).decode("utf-8", "replace")
        if version != 1:
            raise self.file.damaged("a link of its HDF5 structure has an unknown version")
        return _Link(name, kind, self.number(8) if kind == 0 else self.skip(self.number(2)).place)


def _text(data: bytes) -> str:
    return data.split(b"\0")[0].decode("utf-8", "replace")


def _shape(cursor: _Cursor) -> tuple[int, ...] | None:
    """A dataspace message's dimensions: () for a single number, None for an empty one."""
    version, rank = cursor.numbers(1, 1)
    if version not in (1, 2) or rank > 8:
        raise cursor.file.damaged("a shape in its HDF5 structure cannot be read")
    cursor.skip(1)
    if version == 1:
        cursor.skip(5)
    elif cursor.number(1) == 2:
        return None
    return tuple(cursor.numbers(*[8] * rank))


def _float(cursor: _Cursor) -> tuple[str, str] | None:
    """(type, byte order) of a datatype message; None if it is not an IEEE floating-point type."""
    if cursor.left < 20 or cursor.peek() & 15 != 1:
        return None
    _, bits, size, _, exponent, _, fraction, bias = cursor.numbers(1, 3, 4, 5, 1, 1, 1, 4)
    dtype = _FLOATS.get((size, fraction, exponent, bias))
    return None if dtype is None or bits & 0x40 else (dtype, ">" if bits & 1 else "<")
