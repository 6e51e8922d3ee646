"""PyTorch's two containers: zip (since 1.6) and the legacy one, five pickles in a row followed by raw numbers.

`pickles` interprets the pickles; the numbers are read at offsets calculated from them.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from ...arrays import Array
from ..bounded_file import ITEM_SIZES, LARGEST_KERNEL, Contents, Tensor, WeightsFile, decode
from .pickles import MOST_BYTES, Storage, Strided, read_pickle, tensors_in
from .zips import Archive

Read: TypeAlias = Callable[[Storage, int, int], bytes]  # of a storage: count bytes from an offset on

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def read_torch_zip(file: WeightsFile, archive: Archive, pickle_name: str) -> Contents:
    """`<name>/data.pkl` describes the tensors, `<name>/data/<key>` hold the numbers."""
    folder = pickle_name.removesuffix("data.pkl")
    if f"{folder}constants.pkl" in archive.entries:
        raise file.refused("it is a TorchScript program, not weights: save the network's state_dict() instead")
    order = archive.entries.get(f"{folder}byteorder")
    big = order is not None and order.file_size == len("big")  # not "little"
    size = archive.size(pickle_name)
    if size > MOST_BYTES:
        raise file.refused(f"its data.pkl has {size} bytes, far more than weights need, so it is not read")
    pickled = read_pickle(file, archive.read(pickle_name, 0, size))

    def read(storage: Storage, offset: int, count: int) -> bytes:
        name = f"{folder}data/{storage.key}"
        if name not in archive.entries:
            raise file.damaged(f"its storage {storage.key[:40]} is missing")
        if archive.size(name) != storage.root_length * item_size(storage.dtype):
            raise file.damaged(f"its storage {storage.key[:40]} does not have {storage.root_length} numbers")
        return archive.read(name, offset, count)

    return _contents(file, pickled.value, "PyTorch (zip)", read, ">" if big else "<")


def read_torch_legacy(file: WeightsFile) -> Contents:
    """Pickles of a magic number, the protocol, the machine, the object and the storages' keys; then the storages."""
    head = file.read(0, min(file.size, MOST_BYTES))
    magic = read_pickle(file, head)
    if type(magic.value) is not int or magic.value != MAGIC:
        raise file.refused("it is a plain pickle, not weights: save the network's state_dict() with torch.save")
    protocol = read_pickle(file, head, magic.end)
    if protocol.value != PROTOCOL:
        raise file.damaged(f"its header does not have the protocol {PROTOCOL}")
    machine = read_pickle(file, head, protocol.end)
    state = read_pickle(file, head, machine.end)
    keys = read_pickle(file, head, state.end)
    if not isinstance(machine.value, dict) or machine.value.get("little_endian") is not True:
        raise file.refused("it was written on a big-endian machine: save it again on a little-endian one")
    if not isinstance(keys.value, list) or not all(isinstance(key, str) for key in keys.value):
        raise file.damaged("its list of storages is broken")

    places: dict[str, tuple[int, int]] = {}
    position = keys.end
    for key in keys.value:
        storage = state.storages.get(key)
        if storage is None or key in places:
            raise file.damaged(f"its list of storages names {key[:40]}, which no tensor uses or which was named before")
        count = file.unsigned(position, 8, f"storage {key[:40]}")
        size = item_size(storage.dtype) * storage.root_length
        if count != storage.root_length:
            raise file.damaged(f"its storage {key[:40]} has {count} numbers, not {storage.root_length}")
        if size > file.size - position - 8:
            raise file.damaged(f"its storage {key[:40]} would end at byte {position + 8 + size} of {file.size}")
        places[key] = position + 8, size
        position += 8 + size

    def read(storage: Storage, offset: int, count: int) -> bytes:
        if storage.key not in places:
            raise file.damaged(f"its storage {storage.key[:40]} is missing")
        start, size = places[storage.key]
        if offset + count > size:
            raise file.damaged(f"a tensor reaches beyond its storage {storage.key[:40]}")
        return file.read(start + offset, count, f"storage {storage.key[:40]}")

    return _contents(file, state.value, "PyTorch (legacy)", read, "<")


def item_size(dtype: str) -> int:
    """Bytes per number, including the integers of counters."""
    return ITEM_SIZES.get(dtype) or np.dtype(dtype).itemsize


def _contents(file: WeightsFile, value: Any, container: str, read: Read, order: str) -> Contents:
    tensors = {
        name: Tensor(name, tensor.shape, partial(_load, file, name, tensor, read, order), tensor.storage.dtype)
        for name, tensor in tensors_in(file, value).items()
        if tensor.storage.dtype in ITEM_SIZES
    }
    return Contents(container, tensors, "OIHW")


def _load(file: WeightsFile, name: str, tensor: Strided, read: Read, order: str) -> Array:
    """Reads the storage from the tensor's first number to its last, and puts the numbers in order."""
    storage, offset, shape, strides = tensor
    span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if not all(shape) or span > storage.length - offset:
        raise file.damaged(f"{name[:80]} reaches beyond its storage of {storage.length} numbers")
    if span > 2 * LARGEST_KERNEL:
        raise file.refused(f"{name[:80]} is spread over {span} numbers: save the network's state_dict() again")
    size = ITEM_SIZES[storage.dtype]
    numbers = decode(read(storage, (storage.view + offset) * size, span * size), storage.dtype, order)
    byte_strides = tuple(stride * numbers.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(numbers, shape, byte_strides, writeable=False)
