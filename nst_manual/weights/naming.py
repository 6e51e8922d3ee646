"""From the names that programs give to arrays to VGG-19's layers.

A name is a path whose parts are divided by "." or "/", such as block1_conv1/block1_conv1_W_1:0, features.0.weight,
module.conv1_1.bias or layers/conv2d_3/vars/0. Everything before the part that names the layer is a prefix.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from ..vgg import LAYERS, VGG19, Conv, Pool
from .bounded_file import Tensor, WeightsFile

SHAPES = {step.layer: (3, 3, step.c_in, step.c_out) for step in VGG19 if isinstance(step, Conv)}  # HWIO


def _positions(first: int, per_conv: int) -> dict[int, str]:
    """Which convolution stands at which place of a list in which it takes `per_conv` places and a pooling takes one."""
    positions, place = {}, first
    for step in VGG19:
        if isinstance(step, Conv):
            positions[place] = step.layer
        place += per_conv * isinstance(step, Conv) + isinstance(step, Pool)
    return positions


TORCHVISION = _positions(0, 2)  # convolution, ReLU: 0, 2, (pool 4) 5, …
ADAIN = _positions(2, 3)  # a 1×1 convolution at 0, then padding, convolution, ReLU: 2, 5, (pool 7) 9, …

_BY_NAME = re.compile(r"(?:conv|block(?=\d_conv))(\d)_(?:conv)?(\d)$")
_BY_PLACE = re.compile(r"\d{1,8}$")
_BY_COUNT = re.compile(r"conv2d(?:_(\d{1,8}))?$")  # Keras 3: conv2d, conv2d_1, …
_KERNEL = re.compile(r"(?:.*_)?(?:weights?|kernel|w|filters?)(?:_\d+)?(?::0)?$", re.IGNORECASE)
_BIAS = re.compile(r"(?:.*_)?(?:bias(?:es)?|b)(?:_\d+)?(?::0)?$", re.IGNORECASE)

Pair: TypeAlias = tuple[Tensor, Tensor]


class Layers(NamedTuple):
    """Each layer's kernel and bias, a 1×1 convolution before conv1_1 if there is one, and how many arrays are left."""

    pairs: dict[str, Pair]
    first: Pair | None
    unused: int


def layers_by_name(file: WeightsFile, tensors: Mapping[str, Tensor]) -> Layers:
    """Joins kernels and biases to pairs and names the pairs; of several copies, takes the prefix with most layers."""
    by_prefix: dict[str, dict[str, dict[str, Tensor]]] = {}  # prefix, owner, role
    for name, tensor in tensors.items():
        *parts, last = re.split(r"[./]", name)
        if role := _role(parts, last, tensor):
            if parts[-1:] == ["vars"] or (len(parts) > 1 and parts[-1] == parts[-2]):
                parts.pop()  # Keras 3: conv2d/vars/0; Keras 2: block1_conv1/block1_conv1/kernel:0
            owner = parts.pop() if parts else ""
            by_prefix.setdefault(".".join(parts), {}).setdefault(owner, {})[role] = tensor
    pairs: dict[str, Pair] = {}
    first = None
    for owners in by_prefix.values():
        found, found_first = _layers_of(
            {owner: (roles["kernel"], roles["bias"]) for owner, roles in owners.items() if len(roles) == 2}
        )
        if len(found) > len(pairs):
            pairs, first = found, found_first
    if not pairs:
        listed = ", ".join(list(tensors)[:3]) or "nothing"
        raise file.refused(
            f"no VGG-19 convolutions in it (expected names such as conv1_1.weight, features.0.weight or "
            f"block1_conv1/kernel; found {listed[:160]}): give a VGG-19 weights file"
        )
    return Layers(pairs, first, len(tensors) - 2 * len(pairs) - (2 if first else 0))


def contiguous(layers: Iterable[str]) -> list[str]:
    """VGG-19's layers from conv1_1 to the last one before the first gap."""
    there = set(layers)
    return [layer for number, layer in enumerate(LAYERS) if there.issuperset(LAYERS[: number + 1])]


def _role(parts: list[str], last: str, tensor: Tensor) -> str:
    dimensions = len(tensor.shape)
    if len(parts) > 1 and parts[-1] == "vars":
        return {("0", 4): "kernel", ("1", 1): "bias"}.get((last, dimensions), "")
    if _KERNEL.match(last) and dimensions == 4:
        return "kernel"
    # Biases from Caffe and MatConvNet may have further axes, of length 1.
    return "bias" if _BIAS.match(last) and 0 < dimensions <= 4 else ""


def _layers_of(pairs: Mapping[str, Pair]) -> tuple[dict[str, Pair], Pair | None]:
    """The layers among the owners under one prefix, by the naming that explains most of them."""
    named = {f"conv{match[1]}_{match[2]}": pair for owner, pair in pairs.items() if (match := _BY_NAME.search(owner))}
    named = {layer: pair for layer, pair in named.items() if layer in SHAPES}
    counted = {int(match[1] or 0): pair for owner, pair in pairs.items() if (match := _BY_COUNT.match(owner))}
    in_order = {LAYERS[place]: pair for place, pair in counted.items() if place < len(LAYERS)}
    placed = {int(owner): pair for owner, pair in pairs.items() if _BY_PLACE.match(owner)}
    first = placed.get(0)
    if first and first[0].shape not in ((3, 3, 1, 1), (1, 1, 3, 3)):
        first = None
    places = ADAIN if first else TORCHVISION
    numbered = {places[place]: pair for place, pair in placed.items() if place in places}
    best = max((named, numbered, in_order), key=len)
    return best, first if best is numbered else None
