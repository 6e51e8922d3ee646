"""3×3 convolution with fewer multiplications: Winograd's F(m × m, 3 × 3), in blocks of tiles that stay in the cache.

One tile of m × m outputs depends on n × n inputs d, n = m + 2. Seen as polynomials, a row of d times the kernel's row
is evaluated at n points, multiplied there, and interpolated (Toom and Cook; Winograd transposed it):

    y = Aᵀ [ (G k Gᵀ) ∘ (Bᵀ d B) ] A

With many channels, ∘ is n² ordinary matrix products, (tiles × c_in) · (c_in × c_out): n² / m² multiplications for each
output and channel instead of 9. That is 2.25 for m = 4 and 1.78 for m = 6.

The matrices follow from the points p alone: Aᵀ[a, p] = pᵃ, G[p, i] = pⁱ s_p, and Bᵀ[p] are the coefficients of
Π_{q ≠ p} (x − q) / (p − q) / s_p; the point ∞ takes the highest coefficient. For m = 4 and 0, ±√½, ±√2, ∞, before scaling:

    Bᵀ ~ [[1, 0, −5/2, 0, 1, 0], [0, ∓√2, −2, ±√½, 1, 0] …, [0, 1, 0, −5/2, 0, 1]]

s_p, a power of two, only keeps the numbers of a similar size. Points closed under p → 1/p make the turned kernel's
transform that of the kernel: Σ k[2 − i] pⁱ = p² Σ k[i] (1/p)ⁱ. The backward convolution therefore uses the same
transformed filters, with the rows of Bᵀ and the columns of Aᵀ in another order and scaled.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..arrays import Array
from .threads import Workers, scratch

POINTS = {
    4: (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)),
    6: (0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0),
}
BITS = np.where(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1), -1, 0).astype(np.int32)


@dataclass(frozen=True)
class Transform:
    """Bᵀ (n, n), G (n, 3) and Aᵀ (m, n), in float64."""

    bt: Array
    g: Array
    at: Array


@cache
def transforms(m: int) -> tuple[Transform, Transform]:
    """Those of the convolution, and those of the convolution with the turned kernel and the same G."""
    points = np.array(POINTS[m])
    n = m + 2
    at, g, bt = np.zeros((m, n)), np.zeros((n, 3)), np.zeros((n, n))
    at[:, :-1] = points ** np.arange(m)[:, None]
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

    # Row k of G meets the turned kernel as `factor[k]` times row partner[k] meets the kernel: p and 1/p, 0 and ∞.
    partner = [int(np.argmin(np.abs(points - 1 / p))) if p else n - 1 for p in points] + [0]
    factor = np.array([g[k, ::-1] @ g[partner[k]] / (g[partner[k]] @ g[partner[k]]) for k in range(n)])
    assert np.allclose(g[:, ::-1], factor[:, None] * g[partner])
    turned_bt, turned_at = np.empty_like(bt), np.empty_like(at)
    turned_bt[partner] = factor[:, None] * bt
    turned_at[:, partner] = at
    return Transform(bt, g, at), Transform(turned_bt, g, turned_at)


def transformed(kernel: Array, m: int) -> Array:
    """G k Gᵀ of each pair of channels: (3, 3, c_in, c_out) → (n², c_in, c_out), float32."""
    g = transforms(m)[0].g
    both = np.kron(g, g)
    _, _, c_in, c_out = kernel.shape
    u = np.empty((len(both), c_in, c_out), np.float32)
    for c in range(0, c_in, 64):  # in parts, for the product is in float64
        part = np.asarray(kernel[:, :, c : c + 64], np.float64)
        u[:, c : c + 64] = (both @ part.reshape(9, -1)).reshape(len(both), -1, c_out)
    return u


@dataclass(frozen=True)
class Block:
    """Tile rows p0 … p1 and tile columns q0 … q1 of a feature map."""

    p0: int
    p1: int
    q0: int
    q1: int


def blocks(height: int, width: int, m: int, tiles: int) -> list[Block]:
    """The map cut into blocks of about so many tiles, which depend on its size alone, not on the threads."""
    rows, columns = -(-height // m), -(-width // m)
    down = min(rows, max(1, round(tiles**0.5 / 1.5)))
    across = min(columns, max(1, tiles // down))
    down = min(rows, max(1, tiles // across))
    down, across = -(-rows // -(-rows // down)), -(-columns // -(-columns // across))  # of even size
    return [
        Block(p, min(p + down, rows), q, min(q + across, columns))
        for p in range(0, rows, down)
        for q in range(0, columns, across)
    ]


def transform_in(x: Array, mask: Array | None, block: Block, m: int, bt: Array, v: Array, spare: Array) -> None:
    """Bᵀ d B of the block's tiles: x (height, width, c), where `mask` is open, into v (n², tiles, c).

    v and spare, flat, are both written before they are needed: no other memory is touched.
    """
    height, width, c = x.shape
    n = m + 2
    k, q = block.p1 - block.p0, block.q1 - block.q0
    top, left = m * block.p0 - 1, m * block.q0 - 1
    rows, columns = m * k + 2, m * q + 2
    y0, y1, x0, x1 = max(top, 0), min(top + rows, height), max(left, 0), min(left + columns, width)
    whole = (y1 - y0, x1 - x0) == (rows, columns)
    region = x[y0:y1, x0:x1]
    if not (whole and mask is None):
        padded = spare[: rows * columns * c].reshape(rows, columns, c)
        if not whole:
            padded[: y0 - top] = padded[y1 - top :] = 0
            padded[:, : x0 - left] = padded[:, x1 - left :] = 0
        inside = padded[y0 - top : y1 - top, x0 - left : x1 - left]
        if mask is None:
            inside[...] = region
        else:
            apply_mask(region, mask[y0:y1, x0:x1], inside, v)
        region = padded
    gathered = v[: rows * n * q * c].reshape(rows, n, q, c)  # [row, j, tile] = column m · tile + j
    down, right, one = region.strides
    np.copyto(gathered, as_strided(region, (rows, n, q, c), (down, right, m * right, one), writeable=False))
    half = spare[: rows * n * q * c].reshape(rows, n, q * c)
    np.matmul(bt, gathered.reshape(rows, n, q * c), out=half)
    down, right, one = half.strides
    windows = as_strided(half, (k, n, n, q * c), (m * down, right, down, one), writeable=False)
    np.matmul(bt, windows, out=v[: n * n * k * q * c].reshape(n, n, k, q * c).transpose(2, 1, 0, 3))


def apply_mask(d: Array, mask: Array, out: Array, spare: Array) -> None:
    """d where the mask's bit is 1, else 0: each byte is looked up as eight words of ones or zeros."""
    rows, columns, c = d.shape
    words = spare[: mask.size * 8].view(np.int32).reshape(-1, 8)
    np.take(BITS, mask.reshape(-1), axis=0, out=words, mode="clip")
    np.bitwise_and(d.view(np.int32), words.reshape(rows, columns, -1)[:, :, :c], out=out.view(np.int32))


def transform_out(product: Array, at: Array, m: int, half: Array, y: Array) -> None:
    """Aᵀ M A: product (n, n, tiles · c) → y (m, m, tiles · c). Column n of `half` (m, n + 1, …) holds the bias."""
    n = m + 2
    np.matmul(at[:, :n], product.transpose(1, 0, 2), out=half[:, :n].transpose(1, 0, 2))
    np.matmul(at, half, out=y)


class Convolution:
    """One layer's filters in transformed form, and both directions."""

    def __init__(self, kernel: Array, bias: Array, m: int, tiles: int) -> None:
        self.m, self.tiles = m, tiles
        self.u = transformed(kernel, m)
        self.bias = np.array(bias, np.float32)
        forward, turned = transforms(m)
        ones = np.ones((m, 1))
        self.bt, self.turned_bt = forward.bt.astype(np.float32), turned.bt.astype(np.float32)
        self.at = np.hstack([forward.at, ones]).astype(np.float32)
        self.turned_at = np.hstack([turned.at, ones]).astype(np.float32)

    def forward(self, x: Array, workers: Workers) -> tuple[Array, Array]:
        """ReLU(conv(x) + bias), and its mask in bits, (height, width, c_out / 8)."""
        height, width, _ = x.shape
        c = self.u.shape[2]
        y = np.empty((height, width, c), np.float32)
        mask = np.empty((height, width, -(-c // 8)), np.uint8)

        def one(block: Block) -> None:
            self._block(x, None, block, self.u, self.bt, self.at, y, mask, self.bias)

        workers.run(one, blocks(height, width, self.m, self.tiles))
        return y, mask

    def backward(self, d_y: Array, mask: Array, workers: Workers) -> Array:
        height, width, _ = d_y.shape
        d_x = np.empty((height, width, self.u.shape[1]), np.float32)
        turned = self.u.transpose(0, 2, 1)

        def one(block: Block) -> None:
            self._block(d_y, mask, block, turned, self.turned_bt, self.turned_at, d_x, None, None)

        workers.run(one, blocks(height, width, self.m, self.tiles))
        return d_x

    def _block(
        self,
        x: Array,
        mask: Array | None,
        block: Block,
        u: Array,
        bt: Array,
        at: Array,
        y: Array,
        y_mask: Any,
        bias: Any,
    ) -> None:
        m, n = self.m, self.m + 2
        _, c_in, c_out = u.shape
        k, q = block.p1 - block.p0, block.q1 - block.q0
        tiles = k * q
        c_max = max(c_in, -(-c_out // 8) * 8)
        size = max(n * n * tiles, (m * k + 2) * n * q) * c_max
        v, spare = scratch("v", size), scratch("spare", size)
        transform_in(x, mask, block, m, bt, v, spare)
        product = spare[: n * n * tiles * c_out].reshape(n * n, tiles, c_out)
        np.matmul(v[: n * n * tiles * c_in].reshape(n * n, tiles, c_in), u, out=product)
        half = v[: m * (n + 1) * tiles * c_out].reshape(m, n + 1, tiles * c_out)
        if bias is None:
            at, half = at[:, :n], half[:, :n]
        else:
            half[:, n].reshape(m, tiles, c_out)[...] = bias
        transform_out(product.reshape(n, n, -1), at, m, half, spare[: m * m * tiles * c_out].reshape(m, m, -1))
        tile = spare[: m * m * tiles * c_out].reshape(m, m, k, q, c_out)
        if bias is not None:
            flat = tile.reshape(-1)
            np.maximum(flat, scratch("zero", flat.size, zero=True), out=flat)
        put(tile, y, block, m)
        if y_mask is not None:
            here = y[m * block.p0 : m * block.p1, m * block.q0 : m * block.q1]
            bits = np.packbits(here > 0, axis=2) if c_out % 8 else np.packbits(here > 0).reshape(*here.shape[:2], -1)
            y_mask[m * block.p0 : m * block.p1, m * block.q0 : m * block.q1] = bits


def put(tile: Array, y: Array, block: Block, m: int) -> None:
    """tile (m, m, rows, columns, c) to its place in y (height, width, c), which may end within the last tiles."""
    height, width, c = y.shape
    k, q = block.p1 - block.p0, block.q1 - block.q0
    here = y[m * block.p0 : m * block.p1, m * block.q0 : m * block.q1]
    if here.shape[:2] == (m * k, m * q):
        down, right, one = y.strides
        target = as_strided(here, (k, m, q, m, c), (m * down, down, m * right, right, one))
        np.copyto(target, tile.transpose(2, 0, 3, 1, 4))
        return
    for a in range(m):
        for b in range(m):
            corner = here[a::m, b::m]
            corner[...] = tile[a, b, : corner.shape[0], : corner.shape[1]]
