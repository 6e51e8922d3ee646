"""What a set of weights is."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..arrays import Array


@dataclass(frozen=True)
class Weights:
    """Filters by layer name: kernel (3, 3, channels in, channels out) and bias (channels out,).

    They expect an RGB image of 0 … 255 minus `mean`, whatever the channel order and scale of the file they come from.
    """

    filters: Mapping[str, tuple[Array, Array]]
    mean: tuple[float, float, float]  # R, G, B
    family: str
    source: str
    licence: str = ""
