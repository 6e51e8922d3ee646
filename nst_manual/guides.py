"""Masks → weights of positions: how much of a region the neurons of each layer see.

After Gatys, Ecker, Bethge, Hertzmann, Shechtman, "Controlling Perceptual Factors in Neural Style Transfer" (2017),
section 4, "Spatial control". A mask is (height, width), 0 … 1, of its picture's size: 1 inside, 0 outside.
"""

import numpy as np

from .arrays import Array
from .errors import NSTError
from .vgg import Conv, Pool, Steps


def propagated(mask: Array, steps: Steps) -> dict[str, Array]:
    """{name: s}: the mask on its way through the network, as large as the features after each step.

    A neuron's response is made of 3×3 neighbours at each convolution and of 2×2 at each pooling; so is its share s of
    the region, as their mean. Hence s is the part of all paths from the pixels to the neuron that begin in the region:
    its receptive field, weighted towards the middle. Beyond the picture's edges there are no paths, or where its edge
    pixels are repeated, paths that begin in them.
    """
    s = np.asarray(mask, np.float64)
    shares = {}
    for step in steps:
        if isinstance(step, Conv):
            s = _mean_of_neighbours(s, step.padding)
        elif isinstance(step, Pool):
            s = _mean_of_windows(s)
        shares[step.name] = s
    return shares


def region_weights(share: Array, layer: str) -> Array:
    """t = s / Σ s: the weights, of sum 1, with which the positions of a layer count in a region's moments.

    In the paper's words t is T², a guidance channel squared. (The paper multiplies the features by s itself. Then
    neurons that see two regions by halves count ¼ in each: in pictures, a seam between regions that is hardly styled.)
    """
    total = float(share.sum())
    if total == 0:
        raise NSTError(f"a mask leaves nothing of its region at {layer}: paint a larger one, white on black")
    t: Array = share / total
    return t


def area(share: Array) -> float:
    """The part of a layer that a region fills. The areas of regions that fill the picture together sum to 1."""
    return float(share.mean())


def _mean_of_neighbours(s: Array, padding: str = "zero") -> Array:
    """The mean of the 3×3 neighbourhood, over the pixels that lie inside the picture or repeat its edge."""
    if padding == "replicate":
        return _sum_of_neighbours(np.pad(s, 1, "edge"))[1:-1, 1:-1] / 9
    return _sum_of_neighbours(s) / _sum_of_neighbours(np.ones_like(s))


def _sum_of_neighbours(s: Array) -> Array:
    rows = np.pad(s, ((1, 1), (0, 0)))
    rows = rows[:-2] + rows[1:-1] + rows[2:]
    columns = np.pad(rows, ((0, 0), (1, 1)))
    total: Array = columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:]
    return total


def _mean_of_windows(s: Array) -> Array:
    """The mean of each 2×2 window. An odd last row or column is dropped, as the network does."""
    height, width = s.shape[0] // 2, s.shape[1] // 2
    mean: Array = s[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))
    return mean
