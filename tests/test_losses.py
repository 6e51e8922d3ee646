"""The paper's formulas, other programs' formulas, and the mistakes that are seen in public code."""

import numpy as np
import pytest

from nst_manual.losses import GuidedTarget, content_loss, gram, guided_gram, guided_style_loss, style_loss, tv_loss
from nst_manual.presets import PRESETS
from nst_manual.proof.checks import gradient_error

SHAPES = [(1, 1, 1), (1, 5, 2), (4, 3, 3), (5, 4, 7)]


def paper_matrix(features):
    """The paper's F: N × M."""
    return features.reshape(-1, features.shape[2]).T


def test_content_loss_is_equation_1(rng):
    f, p = rng.random((4, 3, 5)), rng.random((4, 3, 5))
    value, gradient = content_loss(f, p)
    assert value == pytest.approx(0.5 * ((paper_matrix(f) - paper_matrix(p)) ** 2).sum(), rel=1e-14)
    np.testing.assert_allclose(gradient, f - p)


def test_style_loss_is_equations_4_and_6_where_both_pictures_have_one_size(rng):
    features, style = rng.random((4, 3, 5)), rng.random((4, 3, 5))
    f, s = paper_matrix(features), paper_matrix(style)
    (n, m), g, a = f.shape, f @ f.T, s @ s.T
    value, gradient = style_loss(features, gram(style))
    assert value == pytest.approx(((g - a) ** 2).sum() / (4 * n**2 * m**2), rel=1e-13)
    np.testing.assert_allclose(paper_matrix(gradient), (g - a) @ f / (n**2 * m**2), rtol=1e-12)


def test_a_style_picture_of_another_size_but_the_same_texture_costs_nothing(rng):
    tile = rng.random((3, 4, 6))
    value, gradient = style_loss(tile, gram(np.tile(tile, (2, 3, 1))))
    assert value < 1e-28
    assert np.abs(gradient).max() < 1e-15


def test_the_guided_style_loss_in_the_papers_notation(rng):
    features, style, share = rng.random((4, 3, 5)), rng.random((6, 2, 5)), rng.random((4, 3))
    f, t, a = paper_matrix(features), share.ravel() / np.linalg.norm(share), gram(style)
    n, g = 5, f @ np.diag(t**2) @ f.T
    value, gradient = guided_style_loss(features, GuidedTarget(a, t.reshape(4, 3)))
    assert value == pytest.approx(((g - a) ** 2).sum() / (4 * n**2), rel=1e-13)
    np.testing.assert_allclose(paper_matrix(gradient), (g - a) @ f @ np.diag(t**2) / n**2, rtol=1e-12)


def test_a_region_that_is_the_whole_picture_is_the_style_loss_to_the_last_bit(rng):
    features, target = rng.random((4, 8, 5)), gram(rng.random((3, 6, 5)))
    features = features[:, :4]  # 16 positions: T = 1/4 is exact
    expected = style_loss(features, target)
    value, gradient = guided_style_loss(features, GuidedTarget(target, np.full((4, 4), 0.25)))
    assert value == expected[0]
    np.testing.assert_array_equal(gradient, expected[1])


def test_what_lies_outside_a_region_neither_counts_nor_moves(rng):
    features, other = rng.random((4, 6, 5)), rng.random((4, 6, 5))
    other[:, :4] = features[:, :4]
    guide = np.zeros((4, 6))
    guide[:, :4] = 0.25
    np.testing.assert_allclose(guided_gram(features, guide), gram(features[:, :4]), rtol=1e-14)
    target = GuidedTarget(gram(rng.random((3, 6, 5))), guide)
    one, two = guided_style_loss(features, target), guided_style_loss(other, target)
    assert one[0] == two[0]
    assert not one[1][:, 4:].any()
    np.testing.assert_array_equal(one[1], two[1])


def test_tv_loss_is_the_sum_of_squared_neighbour_differences():
    image = np.array([[[1.0], [4.0]], [[2.0], [0.0]]])
    value, gradient = tv_loss(image)
    assert value == 1 + 16 + 9 + 4
    np.testing.assert_array_equal(gradient[:, :, 0], [[-8, 14], [6, -12]])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("loss", ["content", "style", "guided style", "tv"])
def test_every_loss_has_its_own_gradient(rng, loss, shape):
    features, other, style = rng.random(shape), rng.random(shape), rng.random((3, 2, shape[2]))
    guide = rng.random(shape[:2])
    functions = {
        "content": lambda f: content_loss(f, other),
        "style": lambda f: style_loss(f, gram(style)),
        "guided style": lambda f: guided_style_loss(f, GuidedTarget(gram(style), guide / np.linalg.norm(guide))),
        "tv": tv_loss,
    }
    if loss == "tv" and shape == (1, 1, 1):
        value, gradient = tv_loss(features)
        assert value == 0
        assert not gradient.any()
    else:
        assert gradient_error(functions[loss], features, rng) < 1e-11


def misprinted_style_gradient(f, style):
    """Some write-ups print (F − A) F."""
    value, _ = style_loss(f, gram(style))
    n = f.shape[2]
    return value, f @ (f.reshape(-1, n)[:n].T - gram(style)) / (n**2 * f[:, :, 0].size)


def style_features_in_the_gradient(f, style):
    """One public program multiplies (G − A) by the style picture's features."""
    value, _ = style_loss(f, gram(style))
    return value, style @ (gram(f) - gram(style)) / (f.shape[2] ** 2 * f[:, :, 0].size)


def guide_once_in_the_gradient(f, style):
    """T² in the Gram matrix, but T in its derivative: the product is taken of guided features."""
    guide = np.linspace(1, 2, f[:, :, 0].size).reshape(f.shape[:2])
    guide /= np.linalg.norm(guide)
    value, gradient = guided_style_loss(f, GuidedTarget(gram(style), guide))
    return value, gradient / guide[:, :, None]


def squared_factor_in_the_value_only(f, style):
    value, gradient = style_loss(f, gram(style))
    return value / (4 * f.shape[2] ** 2), gradient


def tv_missing_from_the_value(f, style):
    value, gradient = style_loss(f, gram(style))
    return value, gradient + tv_loss(f)[1]


@pytest.mark.parametrize(
    "mistake",
    [
        misprinted_style_gradient,
        style_features_in_the_gradient,
        guide_once_in_the_gradient,
        squared_factor_in_the_value_only,
        tv_missing_from_the_value,
    ],
)
def test_finite_differences_catch_the_mistakes_of_public_code(rng, mistake):
    features, style = rng.random((5, 4, 3)), rng.random((5, 4, 3))
    assert gradient_error(lambda f: mistake(f, style), features, rng) > 0.01


def test_johnsons_total_variation_gradient_is_ours_inside_the_picture(rng):
    image, preset = rng.random((5, 6, 3)), PRESETS["johnson"]
    theirs = np.zeros_like(image)  # it runs over all pixels but the last row and column
    right, down = image[:-1, :-1] - image[:-1, 1:], image[:-1, :-1] - image[1:, :-1]
    theirs[:-1, :-1] += right + down
    theirs[:-1, 1:] -= right
    theirs[1:, :-1] -= down
    ours = preset.tv_unit * tv_loss(image)[1]
    np.testing.assert_allclose(ours[:-2, :-2], theirs[:-2, :-2], atol=1e-14)


def test_the_value_is_summed_in_float64_in_every_precision(rng):
    features = rng.random((50, 60, 4), dtype=np.float32)
    value, gradient = content_loss(features, np.zeros_like(features))
    exact, _ = content_loss(features.astype(np.float64), np.zeros(features.shape))
    assert abs(value - exact) / exact < 1e-7
    assert gradient.dtype == np.float32
