"""Many matrix products of one shape, cut into the pieces that this BLAS computes fastest or rounds least.

OpenBLAS first copies both matrices into an order of its own, which costs as much as some tens of rows of the product.
On CPUs with AVX-512 it has a second way, without copies, for products of less than a million multiplications (and of at
most 1,200 results where the right matrix is transposed). Products are cut into such pieces, with matrices that start at
the beginning of a cache line (memory.py). Then

- products with few rows, or with few columns in the left matrix, take a seventh less time, and those of 16 rows a
  third less;
- products with a transposed right matrix are sums of 16 partial sums, with less than half the rounding error, in the
  same time as with copies. Up to 64 rows form one piece with fewer columns, so that each number of the right matrix,
  which comes from memory, meets all rows at once.
"""

from functools import cache

import numpy as np
from threadpoolctl import threadpool_info

from ...arrays import Array

WITHOUT_COPIES = ("SkylakeX", "Cooperlake", "SapphireRapids")  # OpenBLAS's names for CPUs with AVX-512
MOST, MOST_TRANSPOSED = 10**6, 1200  # multiplications, and results, less than which go the second way
FEW_ROWS, FEW_IN = 64, 128  # up to which copies cost too much
COLUMNS, ROWS, ROWS_FEW_IN = 64, 16, 64  # of a piece of the result


@cache
def small_is_fast() -> bool:
    """Whether NumPy's BLAS has the second way. Its name decides, not a clock: results must not depend on timing."""
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return bool(libraries) and all(library.get("architecture") in WITHOUT_COPIES for library in libraries)


def multiply(a: Array, b: Array, out: Array) -> None:
    """out[k] = a[k] @ b[k] of (count, rows, inner) and (count, inner, columns); b may be a transposed view."""
    count, rows, inner = a.shape
    columns = b.shape[2]
    transposed = b.strides[2] != b.itemsize
    worth_it = transposed or rows <= FEW_ROWS or inner <= FEW_IN
    height, width = piece(rows, inner, transposed)
    if not worth_it or columns % COLUMNS or height * width * inner >= MOST or not small_is_fast():
        np.matmul(a, b, out=out)
        return
    panels = b.reshape(count, inner, -1, width).transpose(0, 2, 1, 3)[:, :, None]
    whole = rows - rows % height
    for first, last, own in ((0, whole, height), (whole, rows, rows - whole)):
        if first < last:
            pieces = a[:, first:last].reshape(count, 1, -1, own, inner)
            places = out[:, first:last].reshape(count, -1, own, columns // width, width)
            np.matmul(pieces, panels, out=places.transpose(0, 3, 1, 2, 4))


def piece(rows: int, inner: int, transposed: bool) -> tuple[int, int]:
    """Rows and columns of one piece of a product."""
    if not transposed:
        return (ROWS_FEW_IN if inner <= FEW_IN else ROWS), COLUMNS
    if rows > FEW_ROWS:
        return ROWS, COLUMNS
    width = COLUMNS
    while rows * width > MOST_TRANSPOSED:
        width //= 2
    return rows, width
