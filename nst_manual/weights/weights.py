"""What a set of weights is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..arrays import Array


@dataclass(frozen=True)
class Weights:
    """Filters by layer name: kernel (3, 3, channels in, channels out) and bias (channels out,).

    Whatever the file's channel order and scale, they are for an RGB image of 0 … 255 minus `mean`.
    """

    filters: Mapping[str, tuple[Array, Array]]
    mean: tuple[float, float, float]  # R, G, B
    family: str
    source: str
    licence: str = field(default="")
