"""Resizing, and the colours under transparency, so that an invisible pixel's stored colour never counts.

Pictures are (height, width, 3), RGB, 0 … 255; alpha is (height, width).
"""

import numpy as np
from PIL import Image

from ..arrays import Array

WHITE = 255.0
_LEAST_ALPHA = 0.5 / 65535  # below it a pixel counts as invisible: half a level of 16 bits


Box = tuple[float, float, float, float]  # left, top, right and bottom, in pixels of an image


def resize(image: Array, height: int, width: int, box: Box | None = None) -> Array:
    """The image, or what lies in a box, by Lanczos; in floating point, so that nothing is rounded to 8 bits.

    It works on the values as stored, as other programs do. In linear light, fine strokes of paintings come out harsher,
    with dark rings around bright grains, and photographs look the same (docs/pictures.md).
    """
    return _resample(image, height, width, box=box).clip(0, 255)


def fit(image: Array, alpha: Array | None, height: int, width: int) -> tuple[Array, Array | None]:
    """Resize a picture and its alpha, 0 … 255, each colour weighted by its alpha, and fill the transparent parts.

    Returns RGB as float32, and alpha as 0 … 1, or None if the picture is opaque.
    """
    same = (height, width) == image.shape[:2]
    if alpha is None or alpha.min() >= 255:
        return image.astype(np.float32) if same else resize(image, height, width), None
    share = alpha.astype(np.float32)[:, :, None] / 255
    premultiplied = image * share
    if not same:
        premultiplied, share = (_resample(layer, height, width) for layer in (premultiplied, share))
    # Lanczos leaves 0 … 1, for colours and alpha by the same factor: their quotient is the colour.
    visible = np.where(share < _LEAST_ALPHA, 0, np.minimum(share, 1)).astype(np.float32)
    colours = np.clip(premultiplied / np.maximum(share, _LEAST_ALPHA), 0, 255)
    return spread(colours * visible, visible[:, :, 0]).clip(0, 255), visible[:, :, 0]


def spread(premultiplied: Array, alpha: Array) -> Array:
    """Lay a picture over a background made of its own visible colours, spread outwards.

    The colours are given multiplied by alpha. The background comes from ever coarser pictures, each half the size of
    the last: a transparent part takes the colour of the coarser picture. So no invisible or foreign colour (white,
    black) mixes into an edge, neither here nor when the result gets its alpha back. A picture that is nowhere visible
    is white.
    """
    height, width = alpha.shape
    if height == width == 1:
        share = float(alpha[0, 0])
        return premultiplied / share if share > 0 else np.full_like(premultiplied, WHITE)
    if alpha.min() >= 1:
        return premultiplied
    odd = ((0, height % 2), (0, width % 2))
    padded = np.pad(premultiplied, (*odd, (0, 0))), np.pad(alpha, odd)
    coarse, share = (a.reshape(a.shape[0] // 2, 2, a.shape[1] // 2, 2, *a.shape[2:]).sum((1, 3)) for a in padded)
    most = np.maximum(share, 1)  # one visible pixel in four is enough to give the colour
    ground = spread(coarse / most[:, :, None], share / most)
    larger = _resample(ground, 2 * ground.shape[0], 2 * ground.shape[1], Image.Resampling.BILINEAR)
    return np.asarray(premultiplied + (1 - alpha[:, :, None]) * larger[:height, :width])


def _resample(
    image: Array,
    height: int,
    width: int,
    method: Image.Resampling = Image.Resampling.LANCZOS,
    box: Box | None = None,
) -> Array:
    """Each channel by itself, as float32, perhaps beyond the range of the values."""
    channels = (Image.fromarray(np.ascontiguousarray(c, dtype=np.float32)) for c in np.moveaxis(image, 2, 0))
    return np.stack([np.asarray(c.resize((width, height), method, box)) for c in channels], axis=2)
