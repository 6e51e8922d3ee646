"""What every optimiser reports: one record per iteration, and one outcome."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..arrays import Array

PIXEL_RANGE = (0.0, 255.0)


@dataclass(frozen=True)
class Record:
    """One iteration: what the progress bar, a callback and the trace get."""

    iteration: int
    evaluations: int
    loss: float
    terms: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """The best image seen, and why the search ended: iterations, converged, callback, interrupted or not finite."""

    image: Array
    loss: float
    iterations: int
    evaluations: int
    stopped: str
    message: str


class NotFinite(Exception):
    """A loss or gradient that is not made of finite numbers, where there is no way around it."""
