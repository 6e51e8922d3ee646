"""The losses: content compares features, style compares their moments, total variation compares neighbouring pixels,
and the Laplacian compares edges.

Features are (height, width, channels), after the ReLU: the paper's F is their transpose, with N = channels rows and
M = height · width columns. Each loss returns its value and its derivatives, with the formula above. The paper's
"0 where F < 0" is ReLU's own mask, which the walk down applies.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .arrays import Array, Scalar
from .layers import average_pool, average_pool_backward, replicate, replicate_backward
from .roots import root, transport_map


def content_loss(features: Array, target: Array) -> tuple[Scalar, Array]:
    """L_c = ½ Σ (F − P)²  (equation 1)        dL_c/dF = F − P  (equation 2)"""
    difference = features - target
    return _sum_of_squares(difference) / 2, difference


class _Moments(NamedTuple):
    mean: Array  # m = Σ_p t_p F_p, (N,)
    second: Array  # S = Σ_p t_p F_p F_pᵀ, (N, N)


class Moments(_Moments):
    """All that a style loss knows of a layer's features, in float64: the mean m and the second moments S.

    An engine may compute `root` and `transport_map`, which are those of roots.py, in its own way.
    """

    def root(self, matrix: Array) -> Array:
        return root(matrix)

    def transport_map(self, half: Array, covariance: Array, floor: Scalar) -> tuple[Array, Scalar]:
        return transport_map(half, covariance, floor)

    def like(self, mean: Array, second: Array) -> "Moments":
        """Others of the same kind, on the same device."""
        return type(self)(mean, second)

    def plus(self, other: "Moments") -> "Moments":
        """Those of both parts of a picture together."""
        return self.like(self.mean + other.mean, self.second + other.second)

    def times(self, share: float) -> "Moments":
        """A picture's part in the moments of a larger one."""
        return self if share == 1 else self.like(share * self.mean, share * self.second)

    @cached_property
    def gaussian(self) -> "Gaussian":
        """What transport_loss needs of a target, computed once."""
        covariance = self.covariance(self.floor)
        return Gaussian(np.trace(covariance), self.root(covariance))

    def covariance(self, floor: Scalar) -> Array:
        """Σ = S − m mᵀ + εI."""
        covariance: Array = self.second - self.mean[:, None] * self.mean
        return covariance + np.diag(floor * np.ones_like(self.mean))

    @cached_property
    def floor(self) -> Scalar:
        """ε: a ten-thousandth of the filters' mean variance, or a little more than 0 if none of them varies."""
        second = np.diagonal(self.second)
        variance = (second - self.mean**2).mean()
        return np.maximum(1e-4 * variance, 1e-8 * second.mean() + 1e-30)

    def with_floor(self, floor: float) -> "Moments":
        """The same with another ε."""
        own = self.like(*self)
        own.floor = floor
        return own


class Gaussian(NamedTuple):
    """Of a target: tr Σ* and Σ*^½."""

    trace: Scalar
    root: Array


def moments(features: Array, weights: Array | None = None) -> Moments:
    """m = Σ_p t_p F_p and S = Σ_p t_p F_p F_pᵀ over all positions p.

    The weights t sum to 1 and are (height, width), or None for 1/M everywhere. Then S is the paper's Gram matrix
    G = F Fᵀ (equation 3) divided by M, so that pictures of any two sizes can be compared.
    """
    n = features.shape[2]
    if weights is None:
        flat = features.reshape(-1, n)
        mean, second = flat.mean(0, dtype=np.float64), flat.T @ flat / len(flat)
    else:
        root = np.sqrt(weights)[:, :, None]
        flat = (features * root).reshape(-1, n)  # √t F: its products are symmetric to the last bit
        mean, second = (root.reshape(-1, 1) * flat).sum(0, dtype=np.float64), flat.T @ flat
    return Moments(mean, second.astype(np.float64))


def moments_backward(features: Array, weights: Array | None, d_mean: Array | None, d_second: Array) -> Array:
    """d_F_p = t_p (d_m + 2 d_S F_p), where d_S is symmetric, but for rounding; a d_mean of None is 0."""
    height, width = features.shape[:2]
    t = 1 / (height * width) if weights is None else 1.0
    d_features: Array = features @ (2 * t * d_second).astype(features.dtype)
    if d_mean is not None:
        d_features += (t * d_mean).astype(features.dtype)
    if weights is not None:
        d_features *= weights[:, :, None]
    return d_features


StyleLoss = Callable[[Moments, Moments], tuple[Scalar, Array | None, Array]]


def gram_loss(found: Moments, target: Moments) -> tuple[Scalar, Array | None, Array]:
    """E = 1/(4 N²) Σ (S − S*)²  (equation 4)        dE/dm = 0,  dE/dS = 1/(2 N²) · (S − S*)

    With moments_backward this is the paper's dE/dF = 1/(N² M) · (G/M − A/M_s) F  (equation 6). Where both pictures have
    the same size, M_s = M, it is 1/(N² M²) · (G − A) F to the letter.
    """
    n = len(found.mean)
    difference = found.second - target.second
    return _sum_of_squares(difference) / (4 * n**2), None, difference / (2 * n**2)


def spread_loss(found: Moments, target: Moments) -> tuple[Scalar, Array | None, Array]:
    """E = 1/N Σ (m − m*)² + 1/N Σ (σ − σ*)²        dE/dm = 2/N [(m − m*) − m (σ − σ*)/σ],  dE/dS = diag((σ − σ*)/σ)/N

    Each filter's mean, and the spread σ² = S_cc − m_c² + ε of its responses, in which the target's ε (`floor`) keeps a
    filter that never responds from a division by 0.
    """
    n = len(found.mean)
    wanted = np.diagonal(target.second) - target.mean**2
    sigma = np.sqrt(np.diagonal(found.second) - found.mean**2 + target.floor)
    shift, growth = found.mean - target.mean, sigma - np.sqrt(wanted + target.floor)
    value = (_sum_of_squares(shift) + _sum_of_squares(growth)) / n
    return value, 2 / n * (shift - found.mean * growth / sigma), np.diag(growth / sigma / n)


def transport_loss(found: Moments, target: Moments) -> tuple[Scalar, Array | None, Array]:
    """E = 1/N [‖m − m*‖² + tr(Σ + Σ* − 2 (Σ*^½ Σ Σ*^½)^½)]

    dE/dm = 2/N [(m − m*) − (I − T) m],  dE/dS = 1/N (I − T)        with Σ = S − m mᵀ + εI

    The least mean squared distance that features must travel until their mean and covariance are the target's, and
    T = Σ*^½ (Σ*^½ Σ Σ*^½)^−½ Σ*^½, which takes F_p − m to its destination. ε is the target's `floor`.
    """
    n, (wanted, half) = len(found.mean), target.gaussian
    covariance = found.covariance(target.floor)
    destination, trace = found.transport_map(half, covariance, target.floor)
    shift, away = found.mean - target.mean, np.diag(np.ones_like(found.mean)) - destination
    value = (_sum_of_squares(shift) + np.trace(covariance) + wanted - 2 * trace) / n
    return value, 2 / n * (shift - (found.mean[:, None] * away).sum(0)), away / n


def style_loss(
    features: Array, target: Moments, weights: Array | None = None, loss: StyleLoss = gram_loss
) -> tuple[Scalar, Array]:
    """A style loss as a function of the features: E(m, S) and dE/dF, of the positions that have weight."""
    value, d_mean, d_second = loss(moments(features, weights), target)
    return value, moments_backward(features, weights, d_mean, d_second)


# The losses that --style-loss offers. A new one needs its function above and its line here, and nothing else.
STYLE_LOSSES: Mapping[str, StyleLoss] = {
    "gram": gram_loss,
    "spread": spread_loss,
    "transport": transport_loss,
}


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


def tv_nine_point_loss(image: Array) -> tuple[Scalar, Array]:
    """style-transfer-pytorch's, of x/255: 2 [⅓ mean h² + ⅓ mean v² + 1/12 mean d₁² + 1/12 mean d₂²].

    h, v, d₁ and d₂ are the differences of neighbours, across, down, and along both diagonals, in the picture with its
    edge repeated. Each pulls its two pixels together, as in tv_loss, and the border's gradient is folded onto the edge.
    """
    x = replicate(image)
    value: Scalar = 0.0
    d_x = np.zeros_like(x)
    for one, other, share in NINE_POINTS:
        difference = x[other] - x[one]
        weight = 2 * share / (difference.size * 255**2)
        value = value + weight * _sum_of_squares(difference)
        difference *= 2 * weight
        d_x[other] += difference
        d_x[one] -= difference
    return value, replicate_backward(d_x)


NINE_POINTS = (  # of a padded picture: pixels, their neighbours, the share of the squares of their differences
    (np.s_[1:-1, 1:-1], np.s_[1:-1, 2:], 1 / 3),
    (np.s_[1:-1, 1:-1], np.s_[2:, 1:-1], 1 / 3),
    (np.s_[:-1, :-1], np.s_[1:, 1:], 1 / 12),
    (np.s_[:-1, 1:], np.s_[1:, :-1], 1 / 12),
)


def laplacian(image: Array) -> Array:
    """D P₄ x, (height/4 − 2, width/4 − 2): P₄ averages windows of 4×4 pixels, and D adds up, over the three channels,
    four times a pixel minus its four neighbours, wherever it has all of them."""
    small = average_pool(average_pool(image)).sum(2)
    bent: Array = 4 * small[1:-1, 1:-1] - small[:-2, 1:-1] - small[2:, 1:-1] - small[1:-1, :-2] - small[1:-1, 2:]
    return bent


def laplacian_loss(image: Array, target: Array) -> tuple[Scalar, Array]:
    """Σ (D P₄ x − D P₄ c)², of Lapstyle (Li et al. 2017)        d/dx = 2 P₄ᵀ Dᵀ D P₄ (x − c)

    The target is D P₄ c: where the content picture bends. Dᵀ gives each difference back to its five pixels, in every
    channel, and P₄ᵀ to the windows' sixteen.
    """
    difference = laplacian(image) - target
    height, width, channels = image.shape
    d = 2 * difference[:, :, None]
    d_small = np.zeros_like(image, shape=(height // 4, width // 4, channels))
    d_small[1:-1, 1:-1] += 4 * d
    for neighbours in (np.s_[:-2, 1:-1], np.s_[2:, 1:-1], np.s_[1:-1, :-2], np.s_[1:-1, 2:]):
        d_small[neighbours] -= d
    d_half = average_pool_backward(d_small, (height // 2, width // 2, channels))
    return _sum_of_squares(difference), average_pool_backward(d_half, image.shape)


def _sum_of_squares(x: Array) -> Scalar:
    # Summed in float64 in every precision: a line search compares losses that differ in the last digits.
    return np.sum(x * x, dtype=np.float64)
