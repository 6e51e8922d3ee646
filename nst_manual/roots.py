"""Square roots of symmetric matrices with positive eigenvalues."""

import math
from typing import Any

import numpy as np

from .arrays import Array, Scalar

LEAST = 1e-13  # the smallest eigenvalue that `by_products` follows, as a fraction of the matrix's norm


def root(matrix: Array) -> Array:
    """A^½. Eigenvalues that rounding has made negative count as 0."""
    values, vectors = np.linalg.eigh(matrix)
    product: Array = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return product


def transport_map(half: Array, covariance: Array, least: Scalar) -> tuple[Array, Scalar]:
    """T = H A^−½ H and the trace of A^½, where A = H Σ H with H = `half`, the target's root, and Σ = `covariance`.

    No eigenvalue of A is below `least`, except for rounding. NumPy finds them; a GPU, which is slow at that and can't
    do it within a graph, gets along with products.
    """
    between: Any = half @ covariance @ half
    if not isinstance(between, np.ndarray):
        inverse, trace = by_products(between)
        return half @ inverse @ half, trace
    values, vectors = np.linalg.eigh(between)
    roots = np.sqrt(np.maximum(values, least))
    factor = half @ (vectors / np.sqrt(roots))  # T is this times its transpose
    return factor @ factor.T, roots.sum()


def by_products(matrix: Array) -> tuple[Array, Scalar]:
    """A^−½ and the trace of A^½ by Newton and Schulz's iteration, coupled and scaled.

    With X = A/‖A‖, Y = X and Z = I, each round multiplies both by P = a I − b Z Y. They converge to X^½ and X^−½: on an
    eigenvalue x = σ², σ becomes σ (a − b σ²), which tends to 1. Newton's own a = 3/2 and b = 1/2 enlarge a small σ by
    1.5 only. While the smallest σ, l, is small, a = 3α/2 and b = α³/2 with α² = 3/(1 + l + l²) enlarge it by up to 2.6,
    and map l … 1 into itself.
    """
    norm = np.sqrt(np.sum(matrix * matrix))
    identity = np.diag(np.ones_like(matrix[0]))
    y, z, least = matrix / norm, identity, math.sqrt(LEAST)
    while least < 1 - 1e-14:
        alpha = math.sqrt(3 / (1 + least + least**2))
        step = 1.5 * alpha * identity - 0.5 * alpha**3 * (z @ y)
        y, z = y @ step, step @ z
        least = alpha * least * (3 - (alpha * least) ** 2) / 2
    return z / np.sqrt(norm), np.sqrt(norm) * np.trace(y)
