"""safetensors: a length, a JSON header that names each array's type, shape and place, and then the numbers."""

import json
from typing import Any

from ..bounded_file import ITEM_SIZES, Contents, Tensor, WeightsFile, raw_tensor
from ..naming import layers_by_name

_KINDS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_MOST_HEADER = 1 << 20  # timm's for VGG-19 has 4 kB


def read_safetensors(file: WeightsFile) -> Contents:
    length = file.unsigned(0, 8)
    if length > _MOST_HEADER:
        raise file.refused(f"its header has {length} bytes, far more than weights need: refused unread")
    try:
        header = json.loads(file.read(8, length, "its header"))
    except (ValueError, RecursionError) as error:
        raise file.damaged("its header is not JSON") from error
    if not isinstance(header, dict):
        raise file.damaged("its header is not a table of arrays")
    tensors = {name: _tensor(file, name, entry, 8 + length) for name, entry in header.items() if name != "__metadata__"}
    known = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    found = layers_by_name(file, known)
    return Contents("safetensors", found.pairs, found.first, found.unused + len(tensors) - len(known), kernel_axes="")


def _tensor(file: WeightsFile, name: str, entry: Any, start: int) -> Tensor | None:
    match entry:
        case {"dtype": str() as kind, "shape": list() as shape, "data_offsets": [begin, end]}:
            pass
        case _:
            raise file.damaged(f"its header says too little of {name[:80]}")
    if len(shape) > 8 or not all(type(n) is int and 0 <= n < 1 << 62 for n in (*shape, begin, end)):
        raise file.damaged(f"its header gives {name[:80]} a senseless size")
    if not begin <= end <= file.size - start:
        raise file.damaged(f"{name[:80]} would lie at bytes {begin} … {end} of {file.size - start}")
    if kind not in _KINDS:
        return None
    tensor = raw_tensor(file, name, tuple(shape), _KINDS[kind], start + begin)
    if tensor.count * ITEM_SIZES[_KINDS[kind]] != end - begin:
        raise file.damaged(f"{name[:80]} has {end - begin} bytes, but its shape {tuple(shape)} needs another number")
    return tensor
