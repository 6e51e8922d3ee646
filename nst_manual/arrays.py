"""The type that every room passes on: an array of NumPy's or of CuPy's.

NumPy functions called on CuPy arrays run on the GPU, so the mathematics is written once, with `np`.
"""

from typing import Any, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Scalar: TypeAlias = Any  # one number, perhaps still on a device: float() fetches it
