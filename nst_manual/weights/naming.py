"""From the names that programs give to arrays to VGG-19's layers.

A name is a path, its parts divided by "." or "/", as block1_conv1/block1_conv1_W_1:0, features.0.weight,
module.conv1_1.bias or layers/conv2d_3/vars/0. Whatever stands before the part that names the layer is a prefix.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from ..vgg import LAYERS, VGG19, Conv, Pool
from .bounded_file import Tensor, WeightsFile

SHAPES = {step.layer: (3, 3, step.c_in, step.c_out) for step in VGG19 if isinstance(step, Conv)}  # HWIO


def _positions(first: int, per_conv: int, per_pool: int) -> dict[int, str]:
    """Where the convolutions stand in a list of all steps, when each takes so many places."""
    positions, place = {}, first
    for step in VGG19:
        if isinstance(step, Conv):
            positions[place] = step.layer
        place += per_conv * isinstance(step, Conv) + per_pool * isinstance(step, Pool)
    return positions


TORCHVISION = _positions(0, 2, 1)  # convolution, ReLU: 0, 2, (pool 4) 5, …
ADAIN = _positions(2, 3, 1)  # a 1×1 convolution at 0, then padding, convolution, ReLU: 2, 5, (pool 7) 9, …
IN_ORDER = dict(enumerate(LAYERS))  # Keras 3 counts: conv2d, conv2d_1, …

_BY_NAME = re.compile(r"(?:conv|block(?=\d_conv))(\d)_(?:conv)?(\d)$")
_BY_PLACE = re.compile(r"\d+$")
_BY_COUNT = re.compile(r"conv2d(?:_(\d+))?$")
_KERNEL = re.compile(r"(?:.*_)?(?:weights?|kernel|w|filters?)(?:_\d+)?(?::0)?$", re.IGNORECASE)
_BIAS = re.compile(r"(?:.*_)?(?:bias(?:es)?|b)(?:_\d+)?(?::0)?$", re.IGNORECASE)


Pair: TypeAlias = tuple[Tensor, Tensor]


class Layers(NamedTuple):
    """What the names tell: each layer's kernel and bias, a 1×1 convolution before them, and how many were not VGG's."""

    pairs: dict[str, Pair]
    first: Pair | None
    unused: int


def layers_by_name(file: WeightsFile, tensors: Mapping[str, Tensor]) -> Layers:
    """Groups arrays into kernels and biases by owner, and owners into VGG-19's layers."""
    owners: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parts = re.split(r"[./]", name)
        role = _role(parts, tensor)
        if role:
            parts = parts[: -2 if parts[-2:-1] == ["vars"] else -1]
            if len(parts) > 1 and parts[-1] == parts[-2]:  # Keras 2: block1_conv1/block1_conv1/kernel:0
                parts.pop()
            owners.setdefault((".".join(parts[:-1]), parts[-1] if parts else ""), {})[role] = tensor
    pairs = {key: (roles["kernel"], roles["bias"]) for key, roles in owners.items() if len(roles) == 2}
    best: Layers = Layers({}, None, len(tensors))
    for prefix in dict.fromkeys(prefix for prefix, _ in pairs):
        last_parts = {last: pair for (own, last), pair in pairs.items() if own == prefix}
        found, first = _layers_of(last_parts)
        if len(found) > len(best.pairs):
            best = Layers(found, first, len(tensors) - 2 * len(found) - (2 if first else 0))
    if not best.pairs:
        listed = ", ".join(list(tensors)[:3]) or "nothing"
        raise file.refused(
            f"no VGG-19 convolutions in it (expected names such as conv1_1.weight, features.0.weight or "
            f"block1_conv1/kernel; found {listed[:160]}): give a VGG-19 weights file"
        )
    return best


def _role(parts: list[str], tensor: Tensor) -> str:
    dimensions = len(tensor.shape)
    if len(parts) > 2 and parts[-2] == "vars":
        return {("0", 4): "kernel", ("1", 1): "bias"}.get((parts[-1], dimensions), "")
    if _KERNEL.match(parts[-1]) and dimensions == 4:
        return "kernel"
    # Caffe's and MatConvNet's biases may have axes of length 1 around the one that counts.
    return "bias" if _BIAS.match(parts[-1]) and 0 < dimensions <= 4 else ""


def _layers_of(pairs: Mapping[str, Pair]) -> tuple[dict[str, Pair], Pair | None]:
    """The layers among the owners under one prefix, by whichever naming explains most of them."""
    named = {f"conv{match[1]}_{match[2]}": pair for last, pair in pairs.items() if (match := _BY_NAME.search(last))}
    named = {layer: pair for layer, pair in named.items() if layer in SHAPES}
    counted = {int(match[1] or 0): pair for last, pair in pairs.items() if (match := _BY_COUNT.match(last))}
    # More than nine digits name no layer, and Python refuses to convert thousands of them.
    placed = {int(last): pair for last, pair in pairs.items() if _BY_PLACE.match(last) and len(last) < 9}
    first = placed.get(0)
    if first and first[0].shape in ((3, 3, 1, 1), (1, 1, 3, 3)):
        numbered = {ADAIN[place]: pair for place, pair in placed.items() if place in ADAIN}
    else:
        first = None
        numbered = {TORCHVISION[place]: pair for place, pair in placed.items() if place in TORCHVISION}
    in_order = {IN_ORDER[place]: pair for place, pair in counted.items() if place in IN_ORDER}
    best = max((named, numbered, in_order), key=len)
    return best, first if best is numbered else None
