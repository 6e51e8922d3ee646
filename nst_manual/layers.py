"""The layers of VGG, plain: each one's derivative stands directly below it.

Feature maps are (height, width, channels). `d_x` is always d(loss)/d(x), and has the shape of x.
The derivations, from formula to these lines: docs/gradients.md.
"""

import numpy as np

from .arrays import Array

AVERAGE_SCALES = {"avg": 1.0, "avg-scaled": 2.0}  # of average pooling
L2_SCALE = 0.78  # of L2 pooling: with these, features behind it are about as large as behind max pooling


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


def replicate(x: Array) -> Array:
    """y[p, q] = x[clamp(p − 1), clamp(q − 1)]: one pixel larger on each side, where the edge is repeated."""
    return np.pad(x, ((1, 1), (1, 1), (0, 0)), "edge")


def replicate_backward(d_y: Array) -> Array:
    """d_x[p, q] = Σ d_y over all copies of x[p, q]: the border is folded onto the edge, whose copy it is."""
    d_x = d_y[1:-1].copy()
    d_x[0] += d_y[0]
    d_x[-1] += d_y[-1]
    d_x[:, 1] += d_x[:, 0]
    d_x[:, -2] += d_x[:, -1]
    return d_x[:, 1:-1]


def conv_replicate(x: Array, kernel: Array, bias: Array) -> Array:
    """The same convolution, but outside its borders x continues as its edge. conv's own zeros reach only the outputs
    that are left out."""
    return conv(replicate(x), kernel, bias)[1:-1, 1:-1]


def conv_replicate_backward(d_y: Array, kernel: Array) -> Array:
    """The three steps in reverse: outputs that were left out get 0, then conv's derivative, then the fold."""
    return replicate_backward(conv_backward(np.pad(d_y, ((1, 1), (1, 1), (0, 0))), kernel))


def relu(x: Array) -> tuple[Array, Array]:
    """y = max(x, 0). The mask, x > 0, is all that its derivative needs."""
    return np.maximum(x, 0), x > 0


def relu_backward(d_y: Array, mask: Array) -> Array:
    """d_x = d_y where x > 0, else 0: the case distinction in the paper's derivatives."""
    return d_y * mask


def average_pool(x: Array, scale: float = 1.0) -> Array:
    """y[p, q] = scale · the mean of the 2×2 window at (2p, 2q). An odd last row or column is dropped, as VGG does."""
    a, b, c, d = _windows(x)
    return (a + b + c + d) * (scale / 4)


def average_pool_backward(d_y: Array, shape: tuple[int, ...], scale: float = 1.0) -> Array:
    """Each of a window's four pixels gets scale · a quarter of d_y; a dropped row or column gets 0."""
    d_x = np.zeros_like(d_y, shape=shape)
    for corner in _windows(d_x):
        corner[...] = d_y * (scale / 4)
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


def l2_pool(x: Array) -> Array:
    """y[p, q] = 0.78 · ‖w‖, the length √(a² + b² + c² + d²) of the 2×2 window w at (2p, 2q)."""
    a, b, c, d = _windows(x)
    y: Array = np.sqrt(a * a + b * b + c * c + d * d) * L2_SCALE
    return y


def l2_pool_backward(d_y: Array, x: Array, y: Array) -> Array:
    """d_x = 0.78 · x/‖w‖ · d_y, where ‖w‖ = y/0.78; 0 where the window is 0, a kink that ReLU makes common."""
    d_x = np.zeros_like(x)
    ratio = L2_SCALE**2 * d_y / np.where(y > 0, y, 1)
    for corner, own in zip(_windows(d_x), _windows(x), strict=True):
        corner[...] = own * ratio
    return d_x


def _windows(x: Array) -> tuple[Array, Array, Array, Array]:
    """The four corners of all 2×2 windows, in reading order, as views of x."""
    x = x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2]
    return x[0::2, 0::2], x[0::2, 1::2], x[1::2, 0::2], x[1::2, 1::2]
