"""Many matrix products of one shape, cut as the BLAS at hand computes them fastest or rounds them least.

OpenBLAS first copies both matrices into an order of its own, which costs as much as some tens of rows of the product.
On CPUs with AVX-512 it has a second way, without copies, for products of less than a million multiplications (and of at
most 1,200 results where the right matrix is given transposed). Cut into such pieces,

- products of few columns in, up to 64, take a seventh less time;
- those with a transposed right matrix are sums of 16 partial sums, with less than half the rounding error, in the time
  that copies would take, too.
"""

from functools import cache

import numpy as np
from threadpoolctl import threadpool_info

from ..arrays import Array

WITHOUT_COPIES = ("SkylakeX", "Cooperlake", "SapphireRapids")  # OpenBLAS's names for CPUs with AVX-512
FEW = 64
COLUMNS = 64
ROWS, ROWS_TRANSPOSED = 24, 16


@cache
def small_is_fast() -> bool:
    """Whether NumPy's BLAS has the second way. Asked of its name, not of a clock: results must not depend on that."""
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return bool(libraries) and all(library.get("architecture") in WITHOUT_COPIES for library in libraries)


def multiply(a: Array, b: Array, out: Array) -> None:
    """out[k] = a[k] @ b[k] of (count, rows, inner) and (count, inner, columns); b may be a transposed view."""
    count, rows, inner = a.shape
    columns = b.shape[2]
    transposed = b.strides[2] != b.itemsize
    piece = ROWS_TRANSPOSED if transposed else ROWS
    worth_it = (transposed or inner <= FEW) and columns % COLUMNS == 0 and piece * COLUMNS * inner < 10**6
    if not worth_it or not small_is_fast():
        np.matmul(a, b, out=out)
        return
    panels = b.reshape(count, inner, -1, COLUMNS).transpose(0, 2, 1, 3)[:, :, None]
    whole = rows - rows % piece
    for first, last, height in ((0, whole, piece), (whole, rows, rows - whole)):
        if first < last:
            pieces = a[:, first:last].reshape(count, 1, -1, height, inner)
            places = out[:, first:last].reshape(count, -1, height, columns // COLUMNS, COLUMNS)
            np.matmul(pieces, panels, out=places.transpose(0, 3, 1, 2, 4))
