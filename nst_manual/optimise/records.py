"""What every optimiser reports: one record per iteration, and one outcome."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..arrays import Array

PIXEL_RANGE = (0.0, 255.0)


@dataclass(frozen=True)
class Record:
    """One iteration: what the progress bar, a callback, the trace and the plots get.

    The optimisers know the first seven; a transfer counts iterations, evaluations and seconds over all of its scales,
    and adds the others.
    """

    iteration: int
    evaluations: int
    loss: float
    terms: Mapping[str, float]
    seconds: float
    gradient: float = math.nan  # ‖d_image‖ where the iteration ended
    step: float = math.nan  # how far it went: the root of the mean square of the pixels' changes
    iterations: int = 0  # of the whole run, if nothing ends it before
    scale: int = 1  # the scale at work …
    scales: int = 1  # … of so many, coarse to fine
    width: int = 0  # of the picture at this scale
    height: int = 0
    left: float = math.nan  # seconds that the rest will take, as far as one can tell
    # The best picture so far, in the colours that the result will have: (height, width, 3), RGB, 0 … 255. Made when
    # called, and only while the callback runs.
    image: Callable[[], Array] | None = field(default=None, repr=False, compare=False)

    def numbers(self) -> dict[str, Any]:
        """All but the image, for a line of JSON: a number that is not finite is None."""
        fields = (field.name for field in dataclasses.fields(self) if field.name != "image")
        return {name: _for_json(getattr(self, name)) for name in fields}


@dataclass(frozen=True)
class Outcome:
    """The best image seen, and why the search ended: iterations, converged, callback, interrupted, not finite, out of
    memory, or what an `Ended` said."""

    image: Array
    loss: float
    iterations: int
    evaluations: int
    stopped: str
    message: str


class NotFinite(Exception):
    """A loss or gradient that is not made of finite numbers, where there is no way around it."""


class Ended(Exception):
    """Raised by the function instead of an evaluation: the search ends, and could go on from its state as if it had
    not. `stopped` is one word or two for it."""

    def __init__(self, stopped: str, message: str) -> None:
        super().__init__(message)
        self.stopped = stopped


def _for_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _for_json(number) for name, number in value.items()}
    return value if math.isfinite(value) else None
