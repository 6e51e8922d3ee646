"""3×3 convolution by Winograd's F(4 × 4, 3 × 3), in blocks of tiles that stay in the cache, with padding, bias,
ReLU, its mask in bits, and the pooling behind it. The algorithm and its matrices: engines/winograd.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ...arrays import Array
from ...layers import L2_SCALE
from ..winograd import M, N, Transform, transformed, transforms
from .memory import aligned
from .pooling import l2_windows, max_windows, sum_windows
from .products import multiply
from .threads import Phase, Workers, scratch

WIDE = 256  # channels from which on a layer's filters fill the caches
FEW = 64  # channels in, up to which sums are too short to gain from transposed filters
TILES = (384, 192)  # in a block of a thin layer, up to 64 channels and above: see docs/cpu-engine.md
WIDE_TILES = 32  # in a block of a wide layer
PART = 27 << 18  # numbers of a wide layer before and after its products, in one part: 28 MB

FACTORS = {"avg": 0.25, "l2": L2_SCALE**2}  # of a pixel's gradient; l2 has feature over pooled feature besides

Fetch = Callable[[int, int, int, int, Array], None]  # rows y0 … y1, columns x0 … x1, out


@dataclass(frozen=True)
class Block:
    """Tile rows p0 … p1 and tile columns q0 … q1 of a feature map."""

    p0: int
    p1: int
    q0: int
    q1: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.p1 - self.p0, self.q1 - self.q0

    def pixels(self, side: int) -> tuple[slice, slice]:
        """The block's place in a map in which a tile is `side` pixels wide."""
        return slice(side * self.p0, side * self.p1), slice(side * self.q0, side * self.q1)


@cache
def blocks(height: int, width: int, tiles: int) -> list[Block]:
    """The map cut into blocks of about so many tiles, which depend on its size alone, not on the threads."""
    rows, columns = -(-height // M), -(-width // M)
    down = min(rows, max(1, round(tiles**0.5 / 1.5)))
    across = min(columns, max(1, tiles // down))
    down = min(rows, max(1, tiles // across))
    down, across = -(-rows // -(-rows // down)), -(-columns // -(-columns // across))  # of even size
    return [
        Block(p, min(p + down, rows), q, min(q + across, columns))
        for p in range(0, rows, down)
        for q in range(0, columns, across)
    ]


Part = list[tuple[Block, slice]]  # blocks, each with its place among all tiles of the part


@cache
def parts(height: int, width: int, most: int) -> list[tuple[Part, int]]:
    """A wide layer's blocks in parts of at most so many tiles, with their number."""
    found: list[tuple[Part, int]] = []
    part: Part = []
    tiles = 0
    for block in blocks(height, width, WIDE_TILES):
        size = block.shape[0] * block.shape[1]
        if part and tiles + size > most:
            found.append((part, tiles))
            part, tiles = [], 0
        part.append((block, slice(tiles, tiles + size)))
        tiles += size
    return [*found, (part, tiles)]


@dataclass(frozen=True)
class Work:
    """One convolution, in either direction: what all of its blocks have in common."""

    fetch: Fetch  # writes a part of d, within `extent`
    x: Array | None  # d itself, if it lies in memory as the tiles need it
    shape: tuple[int, int]  # of the outputs' map
    extent: tuple[int, int]
    margin: int  # pixels around the block's outputs that `fetch` writes: 1, or 2 to begin at an even place
    u: Array
    transform: Transform
    bias: Array | None
    out: Array | None  # where the outputs go, if nothing is left to do with them
    finish: Callable[[Block, Array], None] | None  # gets the block's outputs, to change in place


def block_scratch(block: Block, work: Work) -> tuple[Array, Array]:
    """The two stretches of memory that a block needs."""
    rows, columns = block.shape
    size = max(N * N * rows * columns, (M * rows + 4) * (M * columns + 4)) * max(work.u.shape[1:])
    return scratch("a", size), scratch("b", size)


class WinogradConvolution:
    """One layer's transformed filters: convolution and ReLU in both directions, with or without a pooling behind."""

    def __init__(self, kernel: Array, bias: Array) -> None:
        # Filters lie in memory as the backward convolution multiplies by them. The forward one takes them transposed,
        # which rounds less; with few channels it has a copy of its own, which is faster.
        _, _, c_in, c_out = kernel.shape
        self.turned = transformed(kernel, aligned((N * N, c_out, c_in)))
        self.u = self.turned.transpose(0, 2, 1)
        self.bias = np.array(bias, np.float32)
        # Aᵀ with a column of ones: the bias rides along as one more point, with coefficient 1 for every output.
        self.up, self.down = (
            Transform(t.bt.astype(np.float32), t.g, np.hstack([t.at, np.ones((M, 1))]).astype(np.float32))
            for t in transforms()
        )
        self.thin = max(self.turned.shape[1:]) < WIDE
        if self.u.shape[1] <= FEW:
            self.u = aligned(self.u.shape)
            self.u[...] = self.turned.transpose(0, 2, 1)

    def forward(self, x: Array, pooling: str | None, workers: Workers) -> tuple[Array, Any]:
        """ReLU(conv(x) + bias), pooled if asked, and a bit for each activation that the gradient passes through; of L2
        pooling, the features in front of it and behind it instead."""
        height, width, _ = x.shape
        c = self.u.shape[2]
        y = workers.memory.empty((height // 2, width // 2, c) if pooling else (height, width, c))
        l2 = pooling == "l2"
        mask = None if l2 else np.empty((height, width, -(-c // 8)), np.uint8)
        features = workers.memory.empty((height, width, c)) if l2 else None if pooling else y
        up = self.up
        bias: Array = self.bias
        if pooling == "avg":  # outputs are quarters, for the average is their sum; Aᵀ is applied from both sides
            up, bias = up._replace(at=up.at / 2), bias / 2

        def fetch(y0: int, y1: int, x0: int, x1: int, out: Array) -> None:
            out[...] = x[y0:y1, x0:x1]

        def finish(block: Block, part: Array) -> None:
            np.maximum(part, scratch("zero", part.size, zero=True).reshape(part.shape), out=part)
            if mask is None:
                l2_windows(part, y[block.pixels(M // 2)])
                return
            is_open = part > 0
            if pooling == "max":
                max_windows(part, is_open, y[block.pixels(M // 2)])
            elif pooling:
                sum_windows(part, y[block.pixels(M // 2)])
            bits = np.packbits(is_open, axis=2) if c % 8 else np.packbits(is_open)
            mask[block.pixels(M)] = bits.reshape(*part.shape[:2], -1)

        size = height, width
        self._convolve(Work(fetch, x, size, size, 1, self.u, up, bias, features, finish), workers)
        return y, (features, y) if mask is None else mask

    def backward(self, d_y: Array, saved: Any, pooling: str | None, workers: Workers) -> Array:
        """d_x, from d_y behind the ReLU or the pooling. Behind that four pixels share, if open."""
        features: Any = None
        if pooling == "l2":
            features, pooled = saved
        height, width, _ = saved.shape if features is None else features.shape
        extent = (height // 2 * 2, width // 2 * 2) if pooling else (height, width)
        d_x = workers.memory.empty((height, width, self.u.shape[1]))
        down = self.down
        if pooling in FACTORS:  # of each pixel; Bᵀ is applied from both sides
            down = down._replace(bt=down.bt * np.float32(FACTORS[pooling] ** 0.5))

        def fetch(y0: int, y1: int, x0: int, x1: int, out: Array) -> None:
            here, behind = np.s_[y0:y1, x0:x1], np.s_[y0 // 2 : y1 // 2, x0 // 2 : x1 // 2]
            if features is None:
                out[...] = np.unpackbits(saved[here], axis=2, count=out.shape[2])
                factors = d_y[behind if pooling else here]
            else:  # they are 0 where ReLU is closed
                out[...] = features[here]
                factors = d_y[behind] / np.where(pooled[behind] > 0, pooled[behind], np.inf)
            if pooling:
                out = out.reshape((y1 - y0) // 2, 2, (x1 - x0) // 2, 2, -1)
                factors = factors[:, None, :, None]
            out *= factors

        margin = 2 if pooling else 1
        work = Work(fetch, None, (height, width), extent, margin, self.turned, down, None, d_x, None)
        self._convolve(work, workers)
        return d_x

    def _convolve(self, work: Work, workers: Workers) -> None:
        """Thin layers are computed block by block. Wide ones, whose filters fill the caches, are computed in larger
        parts, so that each filter is read once for many tiles: all blocks are transformed, then multiplied point by
        point, then transformed back.
        """
        n2, c_in, c_out = work.u.shape
        if self.thin:
            todo = blocks(*work.shape, TILES[max(c_in, c_out) > 64])
            workers.run(lambda block: self._block(block, work), todo)
            return
        for part, tiles in parts(*work.shape, max(WIDE_TILES, PART // (n2 * (c_in + c_out)))):
            self._part(part, tiles, work, workers)

    def _block(self, block: Block, work: Work) -> None:
        """One block from start to finish, on one thread, between two stretches of memory in turn."""
        n2, c_in, c_out = work.u.shape
        tiles = block.shape[0] * block.shape[1]
        a, b = block_scratch(block, work)
        v, product = b[: n2 * tiles * c_in].reshape(n2, tiles, c_in), a[: n2 * tiles * c_out].reshape(n2, tiles, c_out)
        self._transform_in(block, work, v, a, b)
        multiply(v, work.u, product)
        self._transform_out(block, work, product, a, b)

    def _part(self, part: Part, tiles: int, work: Work, workers: Workers) -> None:
        """Several blocks, on all threads."""
        n2, c_in, c_out = work.u.shape
        v = scratch("v", n2 * tiles * c_in).reshape(n2, tiles, c_in)
        product = scratch("product", n2 * tiles * c_out).reshape(n2, tiles, c_out)

        def transform_in(item: tuple[Block, slice]) -> None:
            self._transform_in(item[0], work, v[:, item[1]], *block_scratch(item[0], work))

        def transform_out(item: tuple[Block, slice]) -> None:
            self._transform_out(item[0], work, product[:, item[1]], *block_scratch(item[0], work))

        def products(k: slice) -> None:
            multiply(v[k], work.u[k], product[k])

        workers.run_phases(Phase(transform_in, part), Phase(products, workers.shares(n2)), Phase(transform_out, part))

    def _transform_in(self, block: Block, work: Work, v: Array, a: Array, b: Array) -> None:
        """Bᵀ d B of the block's tiles into v (n², tiles, c_in), which may be the beginning of b."""
        bt = work.transform.bt
        rows, columns = block.shape
        c, width = v.shape[2], M * columns + 2
        d, y, x = self._patch(block, work, c, b)
        # Tiles overlap: they are views of d, and what is done down a column is done once for neighbours in a row.
        row, pixel, one = d.strides
        tiles = np.ndarray((rows, N, width * c), np.float32, d, y * row + x * pixel, (M * row, row, one))
        half = a[: tiles.size].reshape(tiles.shape)
        np.matmul(bt, tiles, out=half)
        tile, row, _ = half.strides
        windows = np.ndarray((N, rows, columns, N, c), np.float32, half, 0, (row, tile, M * pixel, pixel, one))
        np.matmul(bt, windows, out=v.reshape(N, N, rows, columns, c).transpose(0, 2, 3, 1, 4))

    def _transform_out(self, block: Block, work: Work, product: Array, a: Array, b: Array) -> None:
        """Aᵀ M A + bias, finished, of the product (n², tiles, c_out), which may be the beginning of a."""
        at = work.transform.at
        rows, columns = block.shape
        _, tiles, c = product.shape
        points = N if work.bias is None else N + 1
        half = b[: M * points * tiles * c].reshape(M, points, tiles * c)
        np.matmul(at[:, :N], product.reshape(N, N, -1).swapaxes(0, 1), out=half[:, :N].swapaxes(0, 1))
        if work.bias is not None:
            half[:, N].reshape(M, tiles, c)[...] = work.bias
        goal = None if work.out is None else work.out[block.pixels(M)]
        whole = a[: M * M * tiles * c].reshape(M * rows, M * columns, c)
        if goal is not None and goal.shape == whole.shape:
            whole = goal
        tile = half.reshape(M, points, rows, columns, c).transpose(0, 2, 3, 1, 4)
        np.matmul(at[:, :points], tile, out=whole.reshape(rows, M, columns, M, c).transpose(1, 0, 2, 3, 4))
        part = whole[: work.shape[0] - M * block.p0, : work.shape[1] - M * block.q0]
        if work.finish is not None:
            work.finish(block, part)
        if goal is not None and whole is not goal:
            goal[...] = part

    def _patch(self, block: Block, work: Work, c: int, memory: Array) -> tuple[Array, int, int]:
        """The pixels that the tiles depend on, zeros outside the map: an array, which is x itself where possible,
        and the row and column in it where they begin."""
        margin = work.margin
        height, width = (M * side + 2 * margin for side in block.shape)
        top, left = M * block.p0 - margin, M * block.q0 - margin
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = min(top + height, work.extent[0]), min(left + width, work.extent[1])
        inside = (y1 - y0, x1 - x0) == (height, width)
        if inside and work.x is not None:
            return work.x, y0, x0
        patch = memory[: height * width * c].reshape(height, width, c)
        if not inside:
            patch[: y0 - top] = patch[y1 - top :] = 0
            patch[:, : x0 - left] = patch[:, x1 - left :] = 0
        work.fetch(y0, y1, x0, x1, patch[y0 - top : y1 - top, x0 - left : x1 - left])
        return patch, margin - 1, margin - 1
