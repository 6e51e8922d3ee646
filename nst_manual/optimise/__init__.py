"""Minimise a function of the pixels, image → (loss, gradient, terms), which is given; the terms only go to the records.

- scipys.py: SciPy's L-BFGS-B, on the host, in flat float64 vectors.
- lbfgs_search.py: L-BFGS where the image is, in its precision: nothing but numbers leaves the device. Its steps:
  line_search.py.
- adam_search.py: Adam, likewise.
- search.py: what the two have in common, and the loop that runs them; vectors.py: their sums over vectors;
  records.py: what all three report.
"""

from typing import NamedTuple

from .adam import Adam, adam
from .lbfgs import Lbfgs, lbfgs
from .lbfgsb import Function, Lbfgsb, lbfgsb
from .records import PIXEL_RANGE, Ended, Outcome, Record
from .search import Search, run
from .vectors import Vectors

AnySearch = Lbfgsb | Search


class Optimizer(NamedTuple):
    """One of them, for the table: its search, where that works, and the options that it has of its own.

    A search is made of (function, start, bounds=…, its options), or `restored` from (function, state); it has `run`,
    `state`, and the latest `image`, the `best` one, `iteration` and `evaluations` to look at.
    """

    search: type[Lbfgsb] | type[Search]
    on_device: bool
    options: tuple[str, ...]


OPTIMIZERS = {
    "l-bfgs-b": Optimizer(Lbfgsb, False, ("history",)),
    "lbfgs": Optimizer(Lbfgs, True, ("history",)),
    "adam": Optimizer(Adam, True, ("learning_rate", "averaging")),
}

__all__ = [
    "OPTIMIZERS",
    "PIXEL_RANGE",
    "Adam",
    "AnySearch",
    "Ended",
    "Function",
    "Lbfgs",
    "Lbfgsb",
    "Optimizer",
    "Outcome",
    "Record",
    "Search",
    "Vectors",
    "adam",
    "lbfgs",
    "lbfgsb",
    "run",
]
