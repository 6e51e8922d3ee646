"""VGG-19-shaped filters made from the pictures themselves: nothing to download.

A style is how often filters respond together, so filters fitted to these pictures describe it better than purely random
ones. Layer by layer, each filter is a random mixture of the directions in which the 3×3 patches of the features below
vary most (their principal components). All filters of a layer get the same mean and spread over the pictures, a bias
that keeps about two thirds of the responses positive, and together VGG-19's mean activation.
"""

from collections.abc import Sequence

import numpy as np

from .. import layers
from ..arrays import Array
from ..engines.blas import one_blas_thread
from ..pictures.alpha import resize
from ..vgg import LAYERS, Conv, Pool, steps_to
from .fingerprint import OXFORD_MEAN_RGB
from .weights import Weights

SIDE = 256  # pictures are reduced to this longer side
PATCHES = 6000  # per layer, over all pictures
STYLE_SHARE = 0.7  # of the patches: filters fitted mostly to the style measure best how far a picture is from it
BIAS = 0.5  # in units of the spread of a filter's responses

# How far the strengths of the directions are evened out, by block. At 0 filters respond to little more than colours, at
# 1 to little more than grain. The first blocks have less: smoother gradients let the optimiser get further.
WHITENING = {"1": 0.4, "2": 0.4, "3": 0.5, "4": 0.5, "5": 0.5}

# VGG-19's own mean activations, so that the presets' weights have about the same effect with these filters. One
# deviation: random mixtures distinguish shapes less sharply than learned filters, so with equal means the content term
# would hold the content's shapes too weakly against the style. conv4_2's mean is enlarged by a factor for each loss.
_MEANS = (22, 99, 99, 97, 77, 92, 197, 289, 218, 145, 77, 20, 12, 4.3, 1.9, 0.3)
CONTENT = {"gram": 1.7, "spread": 1.7, "transport": 2.4}
MEAN_ACTIVATION = dict(zip(LAYERS, _MEANS, strict=True))


def calibrate(
    content: Array | None,
    styles: Sequence[Array],
    deepest: str,
    *,
    seed: int = 0,
    pooling: str = "avg",
    style_loss: str = "gram",
) -> Weights:
    """Filters from conv1_1 to `deepest` for the given pictures; the same seed gives the same filters."""
    with one_blas_thread:  # the rounding of sums depends on the number of threads
        rng = np.random.default_rng(seed)
        contents = [] if content is None else [content]
        style_share = STYLE_SHARE if contents and styles else len(styles) / max(len(styles), 1)
        shares = [1 - style_share for _ in contents] + [style_share / len(styles) for _ in styles]
        maps = [_smaller(image) - np.asarray(OXFORD_MEAN_RGB, dtype=np.float32) for image in (*contents, *styles)]
        filters = {}
        for step in steps_to(deepest):
            if isinstance(step, Conv):
                kernel = _kernel(maps, shares, step, rng)
                responses = [layers.conv(x, kernel, np.zeros(step.c_out, np.float32)) for x in maps]
                mean = np.mean([y.mean((0, 1)) for y in responses], axis=0)  # every picture counts the same
                spread = np.sqrt(np.mean([((y - mean) ** 2).mean((0, 1)) for y in responses], axis=0))
                gain = 1 / np.maximum(spread, 1e-3 * spread.max() + 1e-6)
                bias = BIAS - mean * gain
                maps = [layers.relu(y * gain + bias)[0] for y in responses]
                wanted = MEAN_ACTIVATION[step.layer] * (CONTENT[style_loss] if step.layer == "conv4_2" else 1)
                scale = np.float32(wanted / max(np.mean([x.mean() for x in maps]), 1e-6))
                maps = [x * scale for x in maps]
                filters[step.layer] = kernel * gain * scale, bias * scale
            elif isinstance(step, Pool):
                maps = [_pooled(x, pooling) for x in maps]
        return Weights(filters, OXFORD_MEAN_RGB, "calibrated", f"made from the pictures, seed {seed}")


def _pooled(x: Array, pooling: str) -> Array:
    if pooling in layers.AVERAGE_SCALES:
        return layers.average_pool(x, layers.AVERAGE_SCALES[pooling])
    return layers.l2_pool(x) if pooling == "l2" else layers.max_pool(x)[0]


def _kernel(maps: list[Array], shares: list[float], step: Conv, rng: np.random.Generator) -> Array:
    """Random mixtures of the leading principal directions of the maps' patches, partially whitened."""
    patches = np.concatenate([_patches(x, int(PATCHES * share), rng) for x, share in zip(maps, shares, strict=True)])
    patches -= patches.mean(0)
    count = min(24 if step.c_in == 3 else step.c_out // 2, 9 * step.c_in, len(patches))
    directions, strengths = _principal(patches, count, rng)
    weights = np.maximum(strengths, 1e-3 * strengths[0] + 1e-6) ** -WHITENING[step.layer[4]]
    mixture = rng.standard_normal((count, step.c_out), np.float32)
    kernel: Array = directions @ (weights[:, None] * mixture)
    return kernel.reshape(3, 3, step.c_in, step.c_out)


def _principal(patches: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """The leading right singular vectors (as columns) and singular values, by subspace iteration."""
    basis = rng.standard_normal((patches.shape[1], count), np.float32)
    for _ in range(2):  # enough, because the singular values fall steeply
        basis = np.linalg.qr(patches.T @ (patches @ basis))[0]
    _, strengths, turn = np.linalg.svd(patches @ basis, full_matrices=False)
    return basis @ turn.T, strengths


def _patches(x: Array, count: int, rng: np.random.Generator) -> Array:
    """(at most count, 9 · channels): 3×3 windows at random places, padded with zeros as in `conv`."""
    height, width, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    rows, columns = np.divmod(rng.permutation(height * width)[:count], width)
    return np.concatenate([padded[rows + i, columns + j] for i, j in np.ndindex(3, 3)], axis=1)


def _smaller(image: Array) -> Array:
    scale = SIDE / max(image.shape[:2])
    if scale < 1:
        image = resize(image, max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale)))
    return image.astype(np.float32)
