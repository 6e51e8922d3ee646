"""Square roots of symmetric matrices with positive eigenvalues."""

import math

import numpy as np

from .arrays import Array, Scalar

LEAST = 1e-13  # the smallest eigenvalue that `by_products` follows, as a fraction of the matrix's norm


def root(matrix: Array) -> Array:
    """A^½. Eigenvalues that rounding has made negative count as 0."""
    values, vectors = np.linalg.eigh(matrix)
    product: Array = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return product


def transport_map(half: Array, covariance: Array, floor: Scalar) -> tuple[Array, Scalar]:
    """T = H A^−½ H and the trace of A^½, where A = H Σ H with H = `half`, the target's root, and Σ = `covariance`.

    No eigenvalue of Σ or H² is below `floor`, except for rounding, and so none of A below its square.
    """
    values, vectors = np.linalg.eigh(half @ covariance @ half)
    roots = np.sqrt(np.maximum(values, floor**2))
    factor = half @ (vectors / np.sqrt(roots))  # T is this times its transpose
    return factor @ factor.T, roots.sum()


def by_products(matrix: Array) -> tuple[Array, Scalar]:
    """A^−½ and the trace of A^½ by Newton and Schulz's iteration, coupled and scaled.

    With X = A/‖A‖, Y = X and Z = I, each round multiplies both by P = a I − b Z Y. They converge to X^½ and X^−½: on an
    eigenvalue x = σ², σ becomes σ (a − b σ²), which tends to 1. Newton's own a = 3/2 and b = 1/2 enlarge a small σ by
    1.5 only: see `step_factors`.
    """
    norm = np.sqrt(np.sum(matrix * matrix))
    identity = np.diag(np.ones_like(matrix[0]))
    y, z, least = matrix / norm, identity, math.sqrt(LEAST)
    while least < 1 - 1e-14:
        a, b, least = step_factors(least)
        step = a * identity - b * (z @ y)
        y, z = y @ step, step @ z
    return z / np.sqrt(norm), np.sqrt(norm) * np.trace(y)


def step_factors(least: float) -> tuple[float, float, float]:
    """a, b and the next `least` of a round σ ← σ (a − b σ²), in which every σ lies between `least` and 1.

    a = 3α/2 and b = α³/2 with α² = 3/(1 + l + l²) map l … 1 into itself, and enlarge a small l by up to 2.6. But α
    stays so small that a σ of 1 becomes no less than 0.35: from next to nothing, rounding would bring it back in a
    wrong direction.
    """
    alpha = min(1.6, math.sqrt(3 / (1 + least + least**2)))
    a, b = 1.5 * alpha, 0.5 * alpha**3
    return a, b, min(least * (a - b * least**2), a - b)
