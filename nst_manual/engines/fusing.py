"""Which steps an engine may compute at once: those between which nobody looks at the features."""

from collections.abc import Collection

from ..arrays import Array
from ..layers import AVERAGE_SCALES
from ..vgg import Conv, Pool, Relu, Step, Steps

Group = tuple[Step, ...]


def groups(steps: Steps, taps: Collection[str]) -> list[Group]:
    """The steps as (Conv, Relu, Pool), (Conv, Relu), and single steps where features in between are tapped.

    The image's own convolution is never joined with a pooling: no engine has a quicker way for that.
    """
    found: list[Group] = []
    for step in steps:
        group = found[-1] if found else ()
        if group and isinstance(group[0], Conv) and group[-1].name not in taps:
            before = group[-1]
            behind = isinstance(step, Relu) and isinstance(before, Conv)
            pooled = isinstance(step, Pool) and isinstance(before, Relu) and group[0].c_in != 3
            if behind or pooled:
                found[-1] = (*group, step)
                continue
        found.append((step,))
    return found


def scale_folded(kernel: Array, bias: Array, pooling: str | None) -> tuple[Array, Array, str | None]:
    """A convolution with the pooling behind it. A rescaled average is a plain one, of a convolution with the factor in
    its filters: ReLU lets a positive factor pass, up and down."""
    scale = AVERAGE_SCALES.get(pooling or "", 1.0)
    return (kernel, bias, pooling) if scale == 1 else (kernel * scale, bias * scale, "avg")
