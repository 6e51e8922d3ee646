"""Many matrix products of one shape, cut as the BLAS at hand computes them fastest or rounds them least.

OpenBLAS first copies both matrices into an order of its own, which costs as much as some tens of rows of the product.
On CPUs with AVX-512 it has a second way, without copies, for products of less than a million multiplications (and of at
most 1,200 results where the right matrix is given transposed). Cut into such pieces,

- products of few columns in, up to 64, take a seventh less time;
- those with a transposed right matrix are sums of 16 partial sums, with less than half the rounding error, in the time
  that copies would take, too. Of up to 64 rows all are one piece, of fewer columns: each number of the right matrix,
  which comes from memory, then meets all rows at once.
"""

from functools import cache

import numpy as np
from threadpoolctl import threadpool_info

from ..arrays import Array

WITHOUT_COPIES = ("SkylakeX", "Cooperlake", "SapphireRapids")  # OpenBLAS's names for CPUs with AVX-512
FEW = 64
ROWS, ROWS_TRANSPOSED, COLUMNS = 24, 16, 64  # of a piece of the result
MOST, MOST_TRANSPOSED = 10**6, 1200  # multiplications, and results, less than which go the second way


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
    height, width = piece(rows, transposed)
    worth_it = (transposed or inner <= FEW) and columns % COLUMNS == 0 and height * width * inner < MOST
    if not worth_it or not small_is_fast():
        np.matmul(a, b, out=out)
        return
    panels = b.reshape(count, inner, -1, width).transpose(0, 2, 1, 3)[:, :, None]
    whole = rows - rows % height
    for first, last, own in ((0, whole, height), (whole, rows, rows - whole)):
        if first < last:
            pieces = a[:, first:last].reshape(count, 1, -1, own, inner)
            places = out[:, first:last].reshape(count, -1, own, columns // width, width)
            np.matmul(pieces, panels, out=places.transpose(0, 3, 1, 2, 4))


def piece(rows: int, transposed: bool) -> tuple[int, int]:
    """Rows and columns of one piece of a product with so many rows."""
    if not transposed:
        return ROWS, COLUMNS
    if rows > COLUMNS:
        return ROWS_TRANSPOSED, COLUMNS
    width = COLUMNS
    while rows * width > MOST_TRANSPOSED:
        width //= 2
    return rows, width
