"""Masks → guidance channels: how much of a region the neurons of each layer see.

After Gatys, Ecker, Bethge, Hertzmann, Shechtman, "Controlling Perceptual Factors in Neural Style Transfer" (2017),
section 4, "Spatial control". A mask is (height, width), 0 … 1, of its picture's size: 1 inside, 0 outside.
"""

from collections.abc import Sequence

import numpy as np

from .arrays import Array
from .errors import NSTError
from .vgg import Conv, Linear, Pool, Step


def propagated(mask: Array, steps: Sequence[Step]) -> dict[str, Array]:
    """{step: s}: the mask on its way through the network, as large as the features after each step.

    A neuron's response is made of 3×3 neighbours at each convolution and of 2×2 at each pooling; so is its share s of
    the region, as their mean. Hence s is the part of all paths from the pixels to the neuron that begin in the region:
    its receptive field, weighted towards the middle. Beyond the picture's edges there are no paths.
    """
    s = np.asarray(mask, np.float64)
    shares = {}
    for step in steps:
        if isinstance(step, Conv | Linear):
            s = _mean_of_neighbours(s)
        elif isinstance(step, Pool):
            s = _mean_of_windows(s)
        shares[step.name] = s
    return shares


def guide(share: Array, layer: str) -> Array:
    """T = √(s / Σ s), so that Σ T² = 1, as the paper normalises it.

    Then Σ_p T_p² F_p F_pᵀ is a mean over the region, to which each neuron counts by its share; it takes the place of
    G/M = Σ_p 1/M · F_p F_pᵀ, whatever the region's size. (Multiplying the features by s itself, as the paper does, lets
    neurons that see two regions by halves count ¼ in each: in pictures, a seam between regions that is hardly styled.)
    """
    total = float(share.sum())
    if total == 0:
        raise NSTError(f"a mask leaves nothing of its region at {layer}: paint a larger one, white on black")
    t: Array = np.sqrt(share / total)
    return t


def area(share: Array) -> float:
    """The part of a layer that a region fills: the areas of regions that fill the picture together sum to 1."""
    return float(share.mean())


def _mean_of_neighbours(s: Array) -> Array:
    """The mean of the 3×3 neighbourhood, of those pixels that lie inside."""
    return _sum_of_neighbours(s) / _sum_of_neighbours(np.ones_like(s))


def _sum_of_neighbours(s: Array) -> Array:
    rows = np.pad(s, ((1, 1), (0, 0)))
    rows = rows[:-2] + rows[1:-1] + rows[2:]
    columns = np.pad(rows, ((0, 0), (1, 1)))
    total: Array = columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:]
    return total


def _mean_of_windows(s: Array) -> Array:
    """The mean of each 2×2 window; an odd last row or column is dropped, as the network does."""
    height, width = s.shape[0] // 2, s.shape[1] // 2
    mean: Array = s[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))
    return mean
