"""The layers of VGG, plain: each one's derivative stands directly below it.

Feature maps are (height, width, channels). `d_x` is always d(loss)/d(x), and has the shape of x.
The derivations, from formula to these lines: docs/gradients.md.
"""

import numpy as np

from .arrays import Array


def conv(x: Array, kernel: Array, bias: Array) -> Array:
    """3×3 cross-correlation, stride 1; x is zero outside its borders. The kernel is (3, 3, channels in, channels out).

    y[p, q, o] = b[o] + Σ_{i, j, c} x[p + i − 1, q + j − 1, c] · k[i, j, c, o]
    """
    height, width, c_in = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    y = np.zeros_like(x, shape=(height * width, kernel.shape[3]))
    y += bias
    for i, j in np.ndindex(3, 3):
        shifted = padded[i : i + height, j : j + width].reshape(height * width, c_in)
        y += shifted @ kernel[i, j]
    return y.reshape(height, width, -1)


def conv_backward(d_y: Array, kernel: Array) -> Array:
    """d_x[p, q, c] = Σ_{i, j, o} d_y[p − i + 1, q − j + 1, o] · k[i, j, c, o]

    This is again a convolution: of d_y, with the kernel turned by 180° and its channels exchanged.
    """
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    return conv(d_y, turned, np.zeros_like(kernel, shape=kernel.shape[2]))


def relu(x: Array) -> tuple[Array, Array]:
    """y = max(x, 0). The mask, x > 0, is all that its derivative needs."""
    return np.maximum(x, 0), x > 0


def relu_backward(d_y: Array, mask: Array) -> Array:
    """d_x = d_y where x > 0, else 0: the case distinction in the paper's derivatives."""
    return d_y * mask


def average_pool(x: Array) -> Array:
    """y[p, q] = the mean of the 2×2 window at (2p, 2q). An odd last row or column is dropped, as VGG does."""
    a, b, c, d = _windows(x)
    return (a + b + c + d) / 4


def average_pool_backward(d_y: Array, shape: tuple[int, ...]) -> Array:
    """Each of a window's four pixels gets a quarter of d_y; a dropped row or column gets 0."""
    d_x = np.zeros_like(d_y, shape=shape)
    for corner in _windows(d_x):
        corner[...] = d_y / 4
    return d_x


def max_pool(x: Array) -> tuple[Array, Array]:
    """y[p, q] = the largest of the 2×2 window at (2p, 2q). The winner, 0 … 3 in reading order, the first if equal."""
    corners = np.stack(_windows(x))
    winner = np.argmax(corners, axis=0)
    return np.take_along_axis(corners, winner[None], axis=0)[0], winner.astype(np.uint8)


def max_pool_backward(d_y: Array, winner: Array, shape: tuple[int, ...]) -> Array:
    """The winner gets all of d_y, the other three 0."""
    d_x = np.zeros_like(d_y, shape=shape)
    for number, corner in enumerate(_windows(d_x)):
        corner[...] = d_y * (winner == number)
    return d_x


def _windows(x: Array) -> tuple[Array, Array, Array, Array]:
    """The four corners of all 2×2 windows, in reading order, as views of x."""
    x = x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2]
    return x[0::2, 0::2], x[0::2, 1::2], x[1::2, 0::2], x[1::2, 1::2]
