"""Keep the content picture's colours: recolour the style picture, or transfer the luminance alone.

After Gatys, Bethge, Hertzmann, Shechtman, "Preserving Color in Neural Artistic Style Transfer" (2016). Pictures are
(height, width, 3), RGB, 0 … 255, and results are clipped to that range. Weights, (height, width), say how much a pixel
counts; an alpha as weights leaves out invisible pixels.
"""

from typing import NamedTuple

import numpy as np

from ..arrays import Array
from ..errors import NSTError

LUMINANCE = np.array([0.299, 0.587, 0.114])  # Y of YIQ
LEAST_VARIANCE = 1.0  # that a style picture counts with in any direction: one level, lest pure noise be amplified
_TINY_VARIANCE = 1e-6


def match_colours(
    style: Array,
    content: Array,
    method: str = "cholesky",
    style_weights: Array | None = None,
    content_weights: Array | None = None,
) -> Array:
    """The style picture in the content picture's colours, with its own strokes and shapes.

    Colours are moved, not invented: a gray style picture, for example, stays on one line of colours.
    """
    if method not in METHODS:
        raise NSTError(f"there is no method {method!r} of matching colours: choose {', '.join(METHODS)}")
    matched = METHODS[method](_Pixels.of(style, style_weights), _Pixels.of(content, content_weights))
    return matched.clip(0, 255).reshape(style.shape).astype(style.dtype)


class _Pixels(NamedTuple):
    """A picture's colours as rows, (pixels, 3), and their weights, which sum to 1."""

    rgb: Array
    weights: Array

    @classmethod
    def of(cls, image: Array, weights: Array | None) -> "_Pixels":
        rgb = np.asarray(image, np.float64).reshape(-1, 3)
        counts = np.ones(len(rgb)) if weights is None else np.asarray(weights, np.float64).reshape(-1)
        if not counts.any():
            counts = np.ones(len(rgb))  # nothing is visible: every pixel counts the same
        return cls(rgb, counts / counts.sum())

    def mean(self) -> Array:
        return np.asarray(self.weights @ self.rgb)

    def covariance(self) -> Array:
        difference = self.rgb - self.mean()
        return np.asarray((difference * self.weights[:, None]).T @ difference)


def cholesky(style: _Pixels, content: _Pixels) -> Array:
    """x ↦ A (x − μ_S) + μ_C with A = L_C L_S⁻¹, where Σ = L Lᵀ, so that A Σ_S Aᵀ = Σ_C.

    L is lower triangular: red depends on red, green on red and green, blue on all three.
    """
    l_s = np.linalg.cholesky(_power(style.covariance(), LEAST_VARIANCE, 1))
    l_c = np.linalg.cholesky(_power(content.covariance(), _TINY_VARIANCE, 1))
    return _linear(style, content, l_c @ np.linalg.inv(l_s))


def symmetric(style: _Pixels, content: _Pixels) -> Array:
    """The same with A = Σ_C^½ Σ_S^−½ and symmetric roots U Λ^½ Uᵀ, as in "Image Analogies": no channel comes first."""
    a = _power(content.covariance(), 0, 0.5) @ _power(style.covariance(), LEAST_VARIANCE, -0.5)
    return _linear(style, content, a)


def histogram(style: _Pixels, content: _Pixels) -> Array:
    """Each channel separately: x ↦ F_C⁻¹(F_S(x)), where F is the share of darker pixels plus half of the equal ones.

    It matches each channel's whole distribution, not only mean and variance, but not how channels vary together.
    """
    channels = []
    for channel in range(3):
        values, ranks = _ranks(style.rgb[:, channel], style.weights)
        wanted, quantiles = _ranks(content.rgb[:, channel], content.weights)
        channels.append(np.interp(np.interp(style.rgb[:, channel], values, ranks), quantiles, wanted))
    return np.stack(channels, axis=1)


METHODS = {method.__name__: method for method in (cholesky, symmetric, histogram)}


def _linear(style: _Pixels, content: _Pixels, a: Array) -> Array:
    return np.asarray((style.rgb - style.mean()) @ a.T + content.mean())


def _power(covariance: Array, least: float, exponent: float) -> Array:
    """U Λ^exponent Uᵀ for the covariance U Λ Uᵀ.

    Eigenvalues are raised to `least` first: the covariance of one-colour or gray pictures is singular.
    """
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.maximum(values, least) ** exponent) @ vectors.T)


def _ranks(values: Array, weights: Array) -> tuple[Array, Array]:
    """The distinct values in order, and for each the weight below it plus half its own."""
    distinct, place = np.unique(values[weights > 0], return_inverse=True)
    counts = np.bincount(place, weights[weights > 0])
    return distinct, np.cumsum(counts) - counts / 2


def luminance_pair(
    content: Array, style: Array, content_weights: Array | None = None, style_weights: Array | None = None
) -> tuple[Array, Array]:
    """Both pictures in gray, in three equal channels, for the transfer; `with_colours_of` then puts the colours back.

    The style's luminance gets the content's mean and standard deviation, L_S ↦ σ_C/σ_S (L_S − μ_S) + μ_C, so that a
    dark painting doesn't darken the content.
    """
    c, s = _Pixels.of(gray(content), content_weights), _Pixels.of(gray(style), style_weights)
    (mean_c, *_), (mean_s, *_) = c.mean(), s.mean()
    deviation_c, deviation_s = (np.sqrt(max(pixels.covariance()[0, 0], 0.0)) for pixels in (c, s))
    scale = deviation_c / max(deviation_s, np.sqrt(LEAST_VARIANCE))
    matched = np.clip(scale * (gray(style) - mean_s) + mean_c, 0, 255)
    return gray(content), matched.astype(style.dtype)


def gray(image: Array) -> Array:
    """Y, in three equal channels."""
    y = image @ LUMINANCE.astype(image.dtype)
    return np.repeat(y[:, :, None], 3, axis=2)


def with_colours_of(result: Array, content: Array) -> Array:
    """The result's luminance Y with the content picture's I and Q.

    A gray of luminance y is (y, 0, 0) in YIQ and (y, y, y) in RGB, so changing Y alone adds the same to all channels.
    """
    return np.asarray(content + (gray(result) - gray(content))).clip(0, 255)
