"""What every optimiser reports: a record per iteration and, at the end, an outcome."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..arrays import Array
from ..errors import NSTError

PIXEL_RANGE = (0.0, 255.0)


def no_image() -> Array:
    raise NSTError("a record's image is only there during the callback: copy it there if it is needed later")


@dataclass(frozen=True)
class Record:
    """One iteration, as the progress bar, callbacks, traces and plots receive it.

    An optimiser fills in the first seven fields. A transfer adds the others, and counts iterations, evaluations and
    seconds over all of its scales.
    """

    iteration: int
    evaluations: int
    loss: float
    terms: Mapping[str, float]
    seconds: float
    gradient: float = math.nan  # ‖d_image‖ where the iteration ended
    step: float = math.nan  # root mean square of the pixels' changes
    iterations: int = 0  # planned for the whole run
    scale: int = 1  # number of the current scale, coarse to fine …
    scales: int = 1  # … of this many
    width: int = 0  # of the picture at this scale
    height: int = 0
    left: float = math.nan  # estimated seconds until the end of the run
    # The best picture so far, in the colours of the result: (height, width, 3), RGB, 0 … 255. Computed when called, and
    # only during the callback.
    image: Callable[[], Array] = field(default=no_image, repr=False, compare=False)

    def numbers(self) -> dict[str, Any]:
        """Everything but the image, for a line of JSON: numbers that are not finite become None."""
        fields = (field.name for field in dataclasses.fields(self) if field.name != "image")
        return {name: _for_json(getattr(self, name)) for name in fields}


@dataclass(frozen=True)
class Outcome:
    """The best image of a search and why the search ended.

    `stopped` is iterations, converged, callback, interrupted, not finite, out of memory, or the word of an `Ended`;
    that of a run may also be device failed or cluster lost.
    """

    image: Array
    loss: float
    iterations: int
    evaluations: int
    stopped: str
    message: str


class Ended(Exception):
    """The function raises this instead of evaluating, to end a search that can be continued from its state later.

    `stopped` names the reason in one or two words.
    """

    def __init__(self, stopped: str, message: str) -> None:
        super().__init__(message)
        self.stopped = stopped


class NotFinite(Ended):
    """The loss or its gradient is infinite or NaN, and smaller steps do not help."""

    def __init__(self, where: str) -> None:
        message = f"the loss or its gradient is not finite {where}; the picture is the best one before that"
        super().__init__("not finite", message)


def _for_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _for_json(number) for name, number in value.items()}
    return value if math.isfinite(value) else None
