"""The paper's loss terms.

Each is a pure function, (features, target) → (value, gradient), with its formula above it. `features` are (height,
width, channels), after ReLU: the paper's F is their transpose, N = channels rows by M = height · width columns.
The paper's "0 where F < 0" is ReLU's own mask and is applied on the walk down, by ReLU's derivative.
"""

from typing import NamedTuple

import numpy as np

from .arrays import Array, Scalar


def content_loss(features: Array, target: Array) -> tuple[Scalar, Array]:
    """L_c = ½ Σ (F − P)²  (equation 1)        dL_c/dF = F − P  (equation 2)"""
    difference = features - target
    return _sum_of_squares(difference) / 2, difference


def style_loss(features: Array, target: Array) -> tuple[Scalar, Array]:
    """E_l = 1/(4 N²) Σ (G/M − A/M_s)²  (equation 4)        dE_l/dF = 1/(N² M) · (G/M − A/M_s) F  (equation 6)

    `target` is gram(style features) = A/M_s. Where both pictures have the same size, M_s = M, this is the paper's
    1/(4 N² M²) Σ (G − A)² and 1/(N² M²) · (G − A) F to the letter; dividing each Gram matrix by its own M lets the
    style picture have any other size.
    """
    height, width, n = features.shape
    difference = gram(features) - target
    gradient = features @ (difference / (n**2 * height * width))  # (G − A) is symmetric: Fᵀ (G − A) = ((G − A) F)ᵀ
    return _sum_of_squares(difference) / (4 * n**2), gradient


def gram(features: Array) -> Array:
    """G/M with G = F Fᵀ  (equation 3): how strongly any two filters respond together, on average over the picture."""
    flat = features.reshape(-1, features.shape[2])
    return flat.T @ flat / len(flat)


class GuidedTarget(NamedTuple):
    """What a region is to look like, its style's Gram matrix, and where it is: T, (height, width), with Σ T² = 1."""

    gram: Array
    guide: Array


def guided_style_loss(features: Array, target: GuidedTarget) -> tuple[Scalar, Array]:
    """E_l = 1/(4 N²) Σ (G_T − A)²,  G_T = F T² Fᵀ        dE_l/dF = 1/N² · (G_T − A) F T²        with T diagonal

    The style loss of a region. T² = 1/M everywhere makes it style_loss.
    """
    n = features.shape[2]
    difference = guided_gram(features, target.guide) - target.gram
    gradient = features @ (difference / n**2)
    gradient *= (target.guide**2)[:, :, None]
    return _sum_of_squares(difference) / (4 * n**2), gradient


def guided_gram(features: Array, guide: Array) -> Array:
    """G_T = F T² Fᵀ = Σ_p T_p² F_p F_pᵀ: how strongly any two filters respond together, on average over a region."""
    flat: Array = (features * guide[:, :, None]).reshape(-1, features.shape[2])
    return flat.T @ flat


def tv_loss(image: Array) -> tuple[Scalar, Array]:
    """Total variation, Σ (x[p + 1, q] − x[p, q])² + Σ (x[p, q + 1] − x[p, q])².

    Each difference pulls its two pixels together: d/dx[p + 1, q] = 2 (x[p + 1, q] − x[p, q]) = −d/dx[p, q].
    """
    down, right = image[1:] - image[:-1], image[:, 1:] - image[:, :-1]
    gradient = np.zeros_like(image)
    gradient[1:] += 2 * down
    gradient[:-1] -= 2 * down
    gradient[:, 1:] += 2 * right
    gradient[:, :-1] -= 2 * right
    return _sum_of_squares(down) + _sum_of_squares(right), gradient


def tv_power_loss(image: Array) -> tuple[Scalar, Array]:
    """Keras' total variation, Σ t^1.25 with t = down² + right², of the pixels that have both neighbours.

    down = x[p + 1, q] − x[p, q], right = x[p, q + 1] − x[p, q]: d/ddown = 2.5 t^¼ down, d/dright = 2.5 t^¼ right.
    """
    down, right = image[1:, :-1] - image[:-1, :-1], image[:-1, 1:] - image[:-1, :-1]
    t = down * down + right * right
    root = np.sqrt(np.sqrt(t))
    d_down, d_right = 2.5 * root * down, 2.5 * root * right
    gradient = np.zeros_like(image)
    gradient[1:, :-1] += d_down
    gradient[:-1, 1:] += d_right
    gradient[:-1, :-1] -= d_down + d_right
    return np.sum(t * root, dtype=np.float64), gradient


def tv_normalised_loss(image: Array) -> tuple[Scalar, Array]:
    """Total variation of (x/255 − mean)/σ, as torchvision's networks see the picture: Σ_c TV_c/(255 σ_c)²."""
    value: Scalar = 0.0
    gradient = np.zeros_like(image)
    for channel, deviation in enumerate((0.229, 0.224, 0.225)):  # of R, G and B
        own = slice(channel, channel + 1)
        tv, d_channel = tv_loss(image[:, :, own])
        value = value + tv / (255 * deviation) ** 2
        gradient[:, :, own] = d_channel / (255 * deviation) ** 2
    return value, gradient


def _sum_of_squares(x: Array) -> Scalar:
    # Summed in float64 in every precision: a line search compares losses that differ in the last digits.
    return np.sum(x * x, dtype=np.float64)
