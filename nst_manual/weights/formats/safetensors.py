"""safetensors: a length, a JSON header with each array's type, shape and place, and then the numbers."""

import json
from math import prod
from typing import Any

from ..bounded_file import ITEM_SIZES, Contents, Tensor, WeightsFile, decode

_KINDS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_MOST_HEADER = 1 << 20  # timm's VGG-19 has 4 kB


def read_safetensors(file: WeightsFile) -> Contents:
    length = file.unsigned(0, 8)
    if length > _MOST_HEADER:
        raise file.refused(f"its header has {length} bytes, far more than weights need, so it is not read")
    try:
        header = json.loads(file.read(8, length, "its header"))
    except (ValueError, RecursionError) as error:
        raise file.damaged("its header is not JSON") from error
    if not isinstance(header, dict):
        raise file.damaged("its header is not a table of arrays")
    header.pop("__metadata__", None)
    found = {name: _tensor(file, name, entry, 8 + length) for name, entry in header.items()}
    tensors = {name: tensor for name, tensor in found.items() if tensor is not None}
    return Contents("safetensors", tensors, others=len(found) - len(tensors))


def _tensor(file: WeightsFile, name: str, entry: Any, start: int) -> Tensor | None:
    """None if its numbers are not floating-point."""
    match entry:
        case {"dtype": str() as kind, "shape": list() as sizes, "data_offsets": [begin, end]}:
            pass
        case _:
            raise file.damaged(f"its header lacks the type, shape or place of {name[:80]}")
    if len(sizes) > 8 or not all(type(n) is int and 0 <= n < 1 << 62 for n in (*sizes, begin, end)):
        raise file.damaged(f"its header gives {name[:80]} an impossible size")
    if not begin <= end <= file.size - start:
        raise file.damaged(f"{name[:80]} would lie at bytes {begin} … {end} of {file.size - start}")
    if kind not in _KINDS:
        return None
    shape, dtype = tuple(sizes), _KINDS[kind]
    if prod(shape) * ITEM_SIZES[dtype] != end - begin:
        raise file.damaged(f"{name[:80]} has {end - begin} bytes, which do not fit its shape {shape}")
    return Tensor(name, shape, lambda: decode(file.read(start + begin, end - begin), dtype).reshape(shape), dtype)
