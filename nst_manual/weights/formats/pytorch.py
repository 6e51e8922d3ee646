"""PyTorch's two containers: zip (since 1.6) and the legacy one, five pickles in a row followed by raw numbers.

Only the pickle that describes the tensors is interpreted, by `pickles`; numbers are read at offsets worked out from it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ...arrays import Array
from ..bounded_file import ITEM_SIZES, LARGEST_KERNEL, Contents, Tensor, WeightsFile, decode
from ..naming import layers_by_name
from .pickles import MOST_BYTES, Storage, Strided, read_pickle, tensors_in
from .zips import Archive

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def read_torch_zip(file: WeightsFile, archive: Archive, pickle_name: str) -> Contents:
    """`<name>/data.pkl` describes, `<name>/data/<key>` hold the numbers."""
    folder = pickle_name.removesuffix("data.pkl")
    if f"{folder}constants.pkl" in archive.entries:
        raise file.refused("a TorchScript program, not weights: save the network's state_dict() instead")
    order_name, order = f"{folder}byteorder", "<"
    if archive.entries.get(order_name) is not None and archive.size(order_name) == 3:  # "big", not "little"
        order = ">"
    size = archive.size(pickle_name)
    if size > MOST_BYTES:
        raise file.refused(f"its data.pkl has {size} bytes, far more than weights need: refused unread")
    pickled = read_pickle(file, archive.read(pickle_name, 0, size))

    def find(storage: Storage) -> Callable[[int, int], bytes]:
        name = f"{folder}data/{storage.key}"
        if name not in archive.entries:
            raise file.damaged(f"its storage {storage.key[:40]} is missing")
        if archive.size(name) != storage.root_length * item_size(storage.dtype):
            raise file.damaged(f"its storage {storage.key[:40]} has not {storage.root_length} numbers")
        return lambda offset, count: archive.read(name, offset, count)

    return _contents(file, pickled.value, "PyTorch (zip)", find, order)


def read_torch_legacy(file: WeightsFile) -> Contents:
    """Magic, protocol, facts of the machine, the object, the storages' keys; then each storage's count and data."""
    head = file.read(0, min(file.size, MOST_BYTES))
    magic = read_pickle(file, head)
    if type(magic.value) is not int or magic.value != MAGIC:
        raise file.refused("a plain pickle, not weights: save the network's state_dict() with torch.save")
    protocol = read_pickle(file, head, magic.end)
    if protocol.value != PROTOCOL:
        raise file.damaged(f"its header has another protocol than {PROTOCOL}")
    machine = read_pickle(file, head, protocol.end)
    state = read_pickle(file, head, machine.end)
    keys = read_pickle(file, head, state.end)
    if not isinstance(machine.value, dict) or machine.value.get("little_endian") is not True:
        raise file.refused("written on a big-endian machine: save it again on another")
    if not isinstance(keys.value, list) or not all(isinstance(key, str) for key in keys.value):
        raise file.damaged("its list of storages is broken")

    places: dict[str, tuple[int, int]] = {}
    position = keys.end
    for key in keys.value:
        storage = state.storages.get(key)
        if storage is None or key in places:
            raise file.damaged(f"its list of storages names {key[:40]}, which no tensor uses or which came before")
        count = file.unsigned(position, 8, f"storage {key[:40]}")
        size = item_size(storage.dtype) * storage.root_length
        if count != storage.root_length:
            raise file.damaged(f"its storage {key[:40]} has {count} numbers, not {storage.root_length}")
        if size > file.size - position - 8:
            raise file.damaged(f"its storage {key[:40]} would end at byte {position + 8 + size} of {file.size}")
        places[key] = position + 8, size
        position += 8 + size

    def find(storage: Storage) -> Callable[[int, int], bytes]:
        if storage.key not in places:
            raise file.damaged(f"its storage {storage.key[:40]} is missing")
        start, size = places[storage.key]

        def read(offset: int, count: int) -> bytes:
            if offset + count > size:
                raise file.damaged(f"a tensor reaches beyond its storage {storage.key[:40]}")
            return file.read(start + offset, count, f"storage {storage.key[:40]}")

        return read

    return _contents(file, state.value, "PyTorch (legacy)", find, "<")


def item_size(dtype: str) -> int:
    """Bytes of one number, also of the whole ones that counters are kept in."""
    return ITEM_SIZES.get(dtype) or np.dtype(dtype).itemsize


def _contents(
    file: WeightsFile, value: Any, container: str, find: Callable[[Storage], Callable[[int, int], bytes]], order: str
) -> Contents:
    tensors = {
        name: Tensor(name, strided.shape, _loader(file, name, strided, find, order), strided.storage.dtype)
        for name, strided in tensors_in(value).items()
        if strided.storage.dtype in ITEM_SIZES
    }
    found = layers_by_name(file, tensors)
    return Contents(container, found.pairs, found.first, found.unused, kernel_axes="OIHW")


def _loader(
    file: WeightsFile, name: str, tensor: Strided, find: Callable[[Storage], Callable[[int, int], bytes]], order: str
) -> Callable[[], Array]:
    """Reads the stretch of the storage from the tensor's first number to its last, and puts it in order."""

    def load() -> Array:
        storage, offset, shape, strides = tensor
        span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if not all(shape) or span > storage.length - offset:
            raise file.damaged(f"{name[:80]} reaches beyond its storage of {storage.length} numbers")
        if span > 2 * LARGEST_KERNEL:
            raise file.refused(f"{name[:80]} is scattered over {span} numbers: save the network's state_dict() again")
        size = ITEM_SIZES[storage.dtype]
        data = find(storage)((storage.view + offset) * size, span * size)
        numbers = decode(data, storage.dtype, order)
        byte_strides = tuple(stride * numbers.itemsize for stride in strides)
        return np.lib.stride_tricks.as_strided(numbers, shape, byte_strides, writeable=False)

    return load
