"""Optimisers: each minimises a given function of the pixels, image → (loss, gradient, terms).

They are classes of one kind, `Search`: make one from a function and a start, then `run` it.

    outcome = Lbfgsb(function, start, bounds=True).run(iterations=100)
"""

from typing import NamedTuple

from .adam import Adam
from .lbfgs import Lbfgs
from .lbfgsb import Lbfgsb
from .records import PIXEL_RANGE, Ended, Outcome, Record
from .search import Search
from .vectors import Vectors


class Optimizer(NamedTuple):
    """One row of the table: the class, where its arrays are, and its options besides `bounds`."""

    search: type[Search]
    on_device: bool  # else on the host
    options: tuple[str, ...]


OPTIMIZERS = {
    "l-bfgs-b": Optimizer(Lbfgsb, False, ("history",)),
    "lbfgs": Optimizer(Lbfgs, True, ("history", "history_bits")),
    "adam": Optimizer(Adam, True, ("learning_rate",)),
}

__all__ = [
    "OPTIMIZERS",
    "PIXEL_RANGE",
    "Adam",
    "Ended",
    "Lbfgs",
    "Lbfgsb",
    "Optimizer",
    "Outcome",
    "Record",
    "Search",
    "Vectors",
]
