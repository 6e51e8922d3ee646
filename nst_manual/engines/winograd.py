"""Winograd's F(4 × 4, 3 × 3): a 3×3 convolution with a quarter of the multiplications. Its matrices, for both engines.

One tile of 4 × 4 outputs y depends on 6 × 6 inputs d. Seen as polynomials, a row of d times the kernel's row is
evaluated at 6 points, multiplied there, and interpolated (Toom and Cook; Winograd transposed it):

    y = Aᵀ [ (G k Gᵀ) ∘ (Bᵀ d B) ] A

With many channels, ∘ is 36 ordinary matrix products, (tiles × c_in) · (c_in × c_out): 36 / 16 = 2.25 multiplications
for each output and channel instead of 9.

The matrices follow from the points p alone: Aᵀ[a, p] = pᵃ, G[p, i] = pⁱ s_p, and row p of Bᵀ holds the coefficients of
Π_{q ≠ p} (x − q) / (p − q) / s_p; the point ∞ takes the highest coefficients. For p = 0, ±a, ±b, ∞ with a = √½ and
b = √2 = 1/a, which round least of all such points, up to the factors s_p and those of Π (p − q):

          0  [ 1    0  −5/2   0   1   0 ]              [ 1   1   1   1   1   0 ]              ∞ takes the last row,
    Bᵀ = ±a  [ 0   ∓b   −2   ±a   1   0 ]         Aᵀ = [ 0   a  −a   b  −b   0 ]         G =  and row p ≠ ∞ is
         ±b  [ 0   ∓a  −½    ±b   1   0 ]              [ 0   ½   ½   2   2   0 ]              [ 1  p  p² ]
          ∞  [ 0    1    0  −5/2  0   1 ]              [ 0  a³ −a³  b³ −b³   1 ]

s_p, a power of two, only keeps the numbers of a similar size. The points are closed under p → 1/p, which gives the
turned kernel's transform for nothing: Σ k[2 − i] pⁱ = p² Σ k[i] (1/p)ⁱ. The backward convolution therefore uses the
same transformed filters, with the rows of Bᵀ and the columns of Aᵀ in another order and scaled.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from ..arrays import Array

M, N = 4, 6  # outputs and inputs along the side of a tile
POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))  # and ∞


class Transform(NamedTuple):
    """Bᵀ (6, 6), G (6, 3) and Aᵀ (4, 6), in float64."""

    bt: Array
    g: Array
    at: Array


@cache
def transforms() -> tuple[Transform, Transform]:
    """Those of the convolution, and those of the convolution with the turned kernel and the same G."""
    points = np.array(POINTS)
    at, g, bt = np.zeros((M, N)), np.zeros((N, 3)), np.zeros((N, N))
    at[:, :-1] = points ** np.arange(M)[:, None]
    at[-1, -1] = 1
    g[:-1] = points[:, None] ** np.arange(3)
    g[-1, 2] = 1
    for k, p in enumerate(points):
        others = np.delete(points, k)
        bt[k, :-1] = np.poly(others)[::-1] / np.prod(p - others)
    bt[-1] = np.poly(points)[::-1]
    scale = 2.0 ** np.round(np.log2(np.abs(bt).max(axis=1)))
    bt /= scale[:, None]
    g *= scale[:, None]

    # Row k of G meets the turned kernel as factor[k] times row partner[k] meets the kernel: p and 1/p, 0 and ∞.
    partner = [int(np.argmin(np.abs(points - 1 / p))) if p else N - 1 for p in points] + [0]
    factor = np.array([g[k, ::-1] @ g[partner[k]] / (g[partner[k]] @ g[partner[k]]) for k in range(N)])
    turned_bt, turned_at = np.empty_like(bt), np.empty_like(at)
    turned_bt[partner] = factor[:, None] * bt
    turned_at[:, partner] = at
    return Transform(bt, g, at), Transform(turned_bt, g, turned_at)


def transformed(kernel: Array, out: Array | None = None) -> Array:
    """G k Gᵀ of each pair of channels: (3, 3, c_in, c_out) → (36, c_out, c_in), float32."""
    g = transforms()[0].g
    both = np.kron(g, g)
    _, _, c_in, c_out = kernel.shape
    u = np.empty((len(both), c_out, c_in), np.float32) if out is None else out
    for c in range(0, c_in, 32):  # in parts, for the product is in float64
        part = np.asarray(kernel[:, :, c : c + 32], np.float64)
        u[:, :, c : c + 32] = (both @ part.reshape(9, -1)).reshape(len(both), -1, c_out).transpose(0, 2, 1)
    return u
