"""Maps of features that are taken part by part, in memory or in a temporary file."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array, Place
from ..optimise.history import Scratch


class MapOnDisk:
    """(height, width, channels) in a temporary file, read and written by places."""

    def __init__(self, shape: tuple[int, int, int], dtype: Any, folder: Path) -> None:
        self.shape, self.scratch = shape, Scratch(math.prod(shape), dtype, folder)

    def __getitem__(self, place: Place) -> Array:
        rows, columns = place
        _, width, n = self.shape
        found = np.empty((rows.stop - rows.start, columns.stop - columns.start, n), self.scratch.dtype)
        for number, row in enumerate(range(rows.start, rows.stop)):
            self.scratch.read((row * width + columns.start) * n, found[number])
        return found

    def __setitem__(self, place: Place, features: Array) -> None:
        rows, columns = place
        _, width, n = self.shape
        for number, row in enumerate(range(rows.start, rows.stop)):
            self.scratch.write((row * width + columns.start) * n, features[number])


def spacious(shape: tuple[int, int, int], dtype: Any, folder: Path | None) -> Any:
    """An empty map, in a file if there is a folder for it."""
    return np.empty(shape, dtype) if folder is None else MapOnDisk(shape, dtype, folder)
