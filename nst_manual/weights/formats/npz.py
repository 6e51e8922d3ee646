"""NumPy's .npz: a zip archive of .npy arrays. Headers are matched as text; pickled objects are never loaded."""

import re
from math import prod

import numpy as np

from ...arrays import Array
from ..bounded_file import Contents, Tensor, WeightsFile, decode
from .zips import Archive

# NumPy always writes this form. It reads it with a Python parser, which a hostile header can exhaust.
_HEADER = re.compile(
    r"\{'descr': '([<>|=]\w{1,8})', 'fortran_order': (True|False), 'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), \}\s*"
)
_KINDS = {"f2": "float16", "f4": "float32", "f8": "float64"}


def read_npz(file: WeightsFile, archive: Archive) -> Contents:
    """Reads every array's header, but no array."""
    tensors = {}
    for name in archive.entries:
        if name.endswith(".npy") and (tensor := read_tensor(file, archive, name)) is not None:
            tensors[tensor.name] = tensor
    return Contents("NumPy .npz", tensors)


def read_tensor(file: WeightsFile, archive: Archive, entry: str) -> Tensor | None:
    """The array of an entry, by its header; None if its numbers are not floating-point."""
    name = entry.removesuffix(".npy")
    head = archive.read(entry, 0, min(archive.size(entry), 10))
    if len(head) < 10 or head[:6] != b"\x93NUMPY" or head[6] not in (1, 2, 3):
        raise file.damaged(f"its entry {name[:80]} is not a NumPy array")
    start = 10 if head[6] == 1 else 12
    length = int.from_bytes(archive.read(entry, 8, start - 8), "little")
    if length > 10_000:
        raise file.refused(f"its array {name[:80]} has a header of {length} bytes, so it is not read")
    text = archive.read(entry, start, length).decode("latin-1")
    match = _HEADER.fullmatch(text)
    if match is None:
        if "'descr': '|O'" in text or "'descr': [" in text:
            return None
        raise file.damaged(f"the header of its array {name[:80]} cannot be read")
    descr, fortran, sizes = match.groups()
    shape = tuple(int(size) for size in sizes.replace(" ", "").split(",") if size)
    dtype = _KINDS.get(descr[1:])
    if dtype is None or len(shape) > 8:
        return None

    def load() -> Array:
        size = prod(shape) * int(descr[2:])
        if archive.size(entry) != start + length + size:
            raise file.damaged(f"its array {name[:80]} of shape {shape} has {archive.size(entry)} bytes")
        numbers = decode(archive.read(entry, start + length, size), dtype, ">" if descr[0] == ">" else "<")
        return np.reshape(numbers, shape, order="F" if fortran == "True" else "C")

    return Tensor(name, shape, load, dtype)
