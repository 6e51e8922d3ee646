"""Receptive fields: which pixels a feature sees. 3×3 convolutions widen the field, 2×2 poolings double its steps."""

from collections.abc import Iterator
from typing import NamedTuple

from ..vgg import Conv, Pool, Relu, Steps, feature_sizes


class Box(NamedTuple):
    """Rows and columns of the image, the last ones included."""

    top: int
    left: int
    bottom: int
    right: int


def receptive_field(steps: Steps, name: str, row: int, column: int, height: int, width: int) -> Box:
    """The pixels that can change the feature at this place of this layer, for an image of that size."""
    names = [step.name for step in steps]
    sizes = feature_sizes(steps, height, width)
    below = ["image", *names]
    top = bottom = row
    left = right = column
    for number in range(names.index(name), -1, -1):
        step = steps[number]
        if isinstance(step, Conv):
            top, left, bottom, right = top - 1, left - 1, bottom + 1, right + 1
        elif isinstance(step, Pool):
            top, left, bottom, right = 2 * top, 2 * left, 2 * bottom + 1, 2 * right + 1
        rows, columns = sizes[below[number]]
        top, left = max(top, 0), max(left, 0)
        bottom, right = min(bottom, rows - 1), min(right, columns - 1)
    return Box(top, left, bottom, right)


def fields_of(steps: Steps, row: int, column: int, height: int, width: int) -> Iterator[tuple[str, Box]]:
    """For each layer, after its ReLU, the receptive field of the feature that stands at this pixel."""
    sizes, halvings = feature_sizes(steps, height, width), 0
    for step in steps:
        halvings += isinstance(step, Pool)
        if isinstance(step, Relu):
            rows, columns = sizes[step.name]
            place = min(row >> halvings, rows - 1), min(column >> halvings, columns - 1)
            yield step.name, receptive_field(steps, step.name, *place, height, width)
