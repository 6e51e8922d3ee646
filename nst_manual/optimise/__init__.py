"""Minimise a function of the pixels, image → (loss, gradient, terms), which is given; the terms only go to the records.

- scipys.py: SciPy's L-BFGS-B, on the host, in flat float64 vectors.
- lbfgs_search.py: L-BFGS where the image is, in its precision: nothing but numbers leaves the device. Its steps:
  line_search.py.
- adam_search.py: Adam, likewise.
- search.py: what the two have in common, and the loop that runs them; records.py: what all three report.
"""

from collections.abc import Callable
from typing import NamedTuple

from .adam_search import Adam, adam
from .lbfgs_search import Lbfgs, lbfgs
from .records import PIXEL_RANGE, Outcome, Record
from .scipys import Function, lbfgsb
from .search import Search, run


class Optimizer(NamedTuple):
    """One of them, for the table: its function, where that works, and the options that it has of its own."""

    minimise: Callable[..., Outcome]
    on_device: bool
    options: tuple[str, ...]


OPTIMIZERS = {
    "l-bfgs-b": Optimizer(lbfgsb, False, ("history",)),
    "lbfgs": Optimizer(lbfgs, True, ("history",)),
    "adam": Optimizer(adam, True, ("learning_rate", "averaging")),
}

__all__ = [
    "OPTIMIZERS",
    "PIXEL_RANGE",
    "Adam",
    "Function",
    "Lbfgs",
    "Optimizer",
    "Outcome",
    "Record",
    "Search",
    "adam",
    "lbfgs",
    "lbfgsb",
    "run",
]
