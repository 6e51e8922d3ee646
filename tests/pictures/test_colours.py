"""Two ways to keep the content picture's colours."""

import numpy as np
import pytest

from nst_manual.errors import NSTError
from nst_manual.pictures.colours import LUMINANCE, METHODS, gray, luminance_pair, match_colours, with_colours_of

YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def coloured(rng, shape, mean, mixing, scale=12):
    return np.asarray(mean) + scale * rng.standard_normal((*shape, 3)) @ np.asarray(mixing).T


@pytest.fixture
def pair(rng):
    """Two pictures with different covariances of colours, far from the limits 0 and 255."""
    style = coloured(rng, (30, 40), (90, 120, 150), [[1, 0.2, 0], [0.5, 1, 0.1], [-0.3, 0.4, 0.8]])
    content = coloured(rng, (25, 35), (140, 110, 100), [[0.9, 0, 0.4], [0.2, 0.6, 0], [0.1, -0.5, 0.7]])
    return style, content


def statistics(image, weights=None):
    rows = image.reshape(-1, 3)
    return rows.mean(0) if weights is None else np.average(rows, axis=0, weights=weights.ravel()), np.cov(
        rows.T, bias=True, aweights=None if weights is None else weights.ravel()
    )


@pytest.mark.parametrize("method", ["cholesky", "symmetric"])
def test_a_linear_match_has_the_contents_mean_and_covariance(pair, method):
    style, content = pair
    matched = match_colours(style, content, method)
    for found, expected in zip(statistics(matched), statistics(content), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_the_matrices_are_those_of_the_paper(pair):
    style, content = pair
    (mean_s, cov_s), (mean_c, cov_c) = statistics(style), statistics(content)
    # With Cholesky, red depends on red alone.
    red = (style[..., 0] - mean_s[0]) * np.sqrt(cov_c[0, 0] / cov_s[0, 0]) + mean_c[0]
    np.testing.assert_allclose(match_colours(style, content, "cholesky")[..., 0], red, rtol=1e-10)
    # The symmetric A Σ_S^½ is Σ_C^½: symmetric and positive.
    values, vectors = np.linalg.eigh(cov_s)
    a = np.linalg.lstsq(
        (style - mean_s).reshape(-1, 3), (match_colours(style, content, "symmetric") - mean_c).reshape(-1, 3)
    )
    root = a[0].T @ (vectors * np.sqrt(values)) @ vectors.T
    np.testing.assert_allclose(root, root.T, rtol=1e-8, atol=1e-8)
    assert (np.linalg.eigvalsh(root) > 0).all()


def test_a_histogram_match_has_the_contents_quantiles_in_every_channel(pair):
    style, content = pair
    matched = match_colours(style, content, "histogram")
    for q in (0.01, 0.2, 0.5, 0.9, 0.99):
        found, expected = (np.quantile(image.reshape(-1, 3), q, axis=0) for image in (matched, content))
        np.testing.assert_allclose(found, expected, atol=0.6)
    order = np.argsort(style[..., 1].ravel())
    assert (np.diff(matched[..., 1].ravel()[order]) >= 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_matched_to_itself_is_itself(pair, method):
    np.testing.assert_allclose(match_colours(pair[0], pair[0], method), pair[0], atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["gray", "one colour", "black", "one pixel", "two colours"])
def test_pictures_of_few_colours_can_be_matched(rng, pair, method, kind):
    few = {
        "gray": gray(pair[0]),
        "one colour": np.full((6, 7, 3), (10.0, 200.0, 30.0)),
        "black": np.zeros((5, 5, 3)),
        "one pixel": np.full((1, 1, 3), 7.0),
        "two colours": np.where(rng.random((9, 8, 1)) < 0.3, (250.0, 20.0, 0.0), (0.0, 30.0, 90.0)),
    }[kind]
    for style, content in ((few, pair[1]), (pair[0], few), (few, few)):
        matched = match_colours(style, content, method)
        assert matched.shape == style.shape
        assert np.isfinite(matched).all()
        if kind != "two colours":  # the others are not clipped
            np.testing.assert_allclose(statistics(matched)[0], statistics(content)[0], atol=2.5)


@pytest.mark.parametrize("method", ["cholesky", "symmetric"])
def test_noise_below_one_level_is_not_amplified(rng, pair, method):
    nearly_gray = gray(pair[0]) + 0.1 * rng.standard_normal(pair[0].shape)
    spread = (match_colours(nearly_gray, pair[1], method) - match_colours(gray(pair[0]), pair[1], method)).std()
    assert spread < 3


@pytest.mark.parametrize("method", METHODS)
def test_pixels_of_weight_0_do_not_count(pair, method):
    style, content = pair
    weights = np.ones(content.shape[:2])
    weights[:, :9] = 0
    hidden = content.copy()
    hidden[:, :9] = 255, 0, 255
    expected = match_colours(style, content[:, 9:], method)
    np.testing.assert_allclose(match_colours(style, hidden, method, content_weights=weights), expected, rtol=1e-9)
    weights = np.ones(style.shape[:2])
    weights[:11] = 0
    found = match_colours(style, content, method, style_weights=weights)
    np.testing.assert_allclose(found[11:], match_colours(style[11:], content, method), rtol=1e-9)
    assert np.isfinite(match_colours(style, content, method, 0 * weights)).all()


def test_an_unknown_method_is_named():
    with pytest.raises(NSTError, match=r"no method 'lab' .* cholesky, symmetric, histogram"):
        match_colours(np.zeros((2, 2, 3)), np.zeros((2, 2, 3)), "lab")


def test_a_matched_picture_stays_within_its_range_and_type(rng):
    style = rng.uniform(0, 255, (20, 20, 3)).astype(np.float32)
    content = np.where(rng.random((20, 20, 3)) < 0.5, 0, 255).astype(np.float32)
    for method in METHODS:
        matched = match_colours(style, content, method)
        assert matched.dtype == np.float32
        assert matched.min() >= 0
        assert matched.max() <= 255


def test_the_luminance_pair_is_gray_and_the_style_has_the_contents_mean_and_deviation(pair):
    style, content = pair
    gray_content, gray_style = luminance_pair(content, style)
    for image, colours in ((gray_content, content), (gray_style, style)):
        assert image.shape == colours.shape
        np.testing.assert_array_equal(image, image[:, :, :1].repeat(3, 2))
    np.testing.assert_allclose(gray_content[:, :, 0], content @ LUMINANCE)
    assert gray_style.mean() == pytest.approx(gray_content.mean())
    assert gray_style.std() == pytest.approx(gray_content.std())


def test_a_style_of_one_colour_has_the_contents_mean_luminance(pair):
    _, flat = luminance_pair(pair[1], np.full((4, 4, 3), 9.0))
    np.testing.assert_allclose(flat, gray(pair[1]).mean())


def test_the_result_has_the_contents_i_and_q_and_its_own_luminance(rng):
    result, content = rng.uniform(100, 150, (6, 5, 3)), rng.uniform(80, 170, (6, 5, 3))
    found, of_result, of_content = ((image @ YIQ.T) for image in (with_colours_of(result, content), result, content))
    np.testing.assert_allclose(found[..., 0], of_result[..., 0])
    np.testing.assert_allclose(found[..., 1:], of_content[..., 1:], atol=1e-10)


def test_colours_beyond_the_range_are_clipped():
    content, white = np.full((1, 1, 3), (250.0, 10.0, 10.0)), np.full((1, 1, 3), 255.0)
    np.testing.assert_allclose(with_colours_of(white, content)[0, 0], (255, 183.24, 183.24))
