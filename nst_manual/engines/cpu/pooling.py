"""Pooling of a block's features, while they are in the cache: 2×2 windows of `part`, which may have one more row or
column, become `here`."""

from typing import Any

import numpy as np

from ...arrays import Array
from ...layers import L2_SCALE


def sum_windows(part: Array, here: Array) -> None:
    """Writes the windows' sums to `here`, and in part over what it needs no more."""
    height, width, _ = here.shape
    rows = np.add(part[0 : 2 * height : 2], part[1 : 2 * height : 2], out=part[0 : 2 * height : 2])
    np.add(rows[:, 0 : 2 * width : 2], rows[:, 1 : 2 * width : 2], out=here)


def l2_windows(part: Array, here: Array) -> None:
    """Writes layers.l2_pool of part to `here`, and leaves part as it is."""
    height, width, _ = here.shape
    squares = np.square(part[: 2 * height, : 2 * width])
    sum_windows(squares, here)
    np.sqrt(here, out=here)
    here *= np.float32(L2_SCALE)


def max_windows(part: Array, is_open: Array, here: Array) -> None:
    """Writes the windows' largest to `here`. is_open stays set for winners only, the first if equal."""
    height, width, _ = here.shape
    corners = [np.s_[i : 2 * height : 2, j : 2 * width : 2] for i, j in np.ndindex(2, 2)]
    first, second, third, fourth = (part[corner] for corner in corners)
    here[...] = np.maximum(np.maximum(first, second), np.maximum(third, fourth))
    free: Any = True
    for corner in corners:
        wins = (part[corner] == here) & free
        free = free & ~wins
        is_open[corner] &= wins
