"""The type that every room passes on: an array of NumPy's or of CuPy's.

NumPy functions called on CuPy arrays run on the GPU, so the mathematics is written once, with `np`.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Scalar: TypeAlias = Any  # one number, perhaps still on a device: float() fetches it
Place: TypeAlias = tuple[slice, slice]  # rows and columns of a map


def framed(inner: Array, shape: tuple[int, ...], place: Place | None) -> Array:
    """Zeros of that shape with `inner` in its place; or inner itself, if that is everywhere."""
    if place is None:
        return inner
    frame = np.zeros_like(inner, shape=shape)
    frame[place] = inner
    return frame
