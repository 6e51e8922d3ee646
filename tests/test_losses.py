"""The paper's formulas, other programs' formulas, and the mistakes that are seen in public code."""

import numpy as np
import pytest

from nst_manual.losses import (
    STYLE_LOSSES,
    Moments,
    content_loss,
    laplacian,
    laplacian_loss,
    moments,
    moments_backward,
    spread_loss,
    style_loss,
    transport_loss,
    tv_loss,
    tv_nine_point_loss,
)
from nst_manual.presets import PRESETS
from nst_manual.proof.checks import POLYNOMIAL
from nst_manual.proof.differences import gradient_error

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
    value, gradient = style_loss(features, moments(style))
    assert value == pytest.approx(((g - a) ** 2).sum() / (4 * n**2 * m**2), rel=1e-13)
    np.testing.assert_allclose(paper_matrix(gradient), (g - a) @ f / (n**2 * m**2), rtol=1e-12)


def test_a_style_picture_of_another_size_but_the_same_texture_costs_nothing(rng):
    tile = rng.random((3, 4, 6))
    value, gradient = style_loss(tile, moments(np.tile(tile, (2, 3, 1))))
    assert value < 1e-28
    assert np.abs(gradient).max() < 1e-15


def test_moments_are_sums_over_positions(rng):
    features, weights = rng.random((4, 3, 5)), rng.random((4, 3))
    weights /= weights.sum()
    for t in (np.full((4, 3), 1 / 12), weights):
        mean = sum(t[p] * features[p] for p in np.ndindex(4, 3))
        second = sum(t[p] * np.outer(features[p], features[p]) for p in np.ndindex(4, 3))
        found = moments(features, None if t is not weights else t)
        np.testing.assert_allclose(found.mean, mean, rtol=1e-13)
        np.testing.assert_allclose(found.second, second, rtol=1e-13)
        np.testing.assert_array_equal(found.second, found.second.T)


def test_moments_of_parts_add_up_to_those_of_the_whole(rng):
    features, weights = rng.random((6, 5, 4)), rng.random((6, 5))
    weights /= weights.sum()
    whole, above, below = (moments(features[rows], weights[rows]) for rows in (np.s_[:], np.s_[:2], np.s_[2:]))
    for one, two, both in zip(above, below, whole, strict=True):
        np.testing.assert_allclose(one + two, both, rtol=1e-13)


def test_the_style_loss_of_a_region_in_the_papers_notation(rng):
    features, style, share = rng.random((4, 3, 5)), rng.random((6, 2, 5)), rng.random((4, 3))
    f, t, a = paper_matrix(features), share.ravel() / np.linalg.norm(share), moments(style)
    n, g = 5, f @ np.diag(t**2) @ f.T
    value, gradient = style_loss(features, a, t.reshape(4, 3) ** 2)
    assert value == pytest.approx(((g - a.second) ** 2).sum() / (4 * n**2), rel=1e-13)
    np.testing.assert_allclose(paper_matrix(gradient), (g - a.second) @ f @ np.diag(t**2) / n**2, rtol=1e-12)


def test_a_region_that_is_the_whole_picture_is_the_style_loss(rng):
    features, target = rng.random((4, 4, 5)), moments(rng.random((3, 6, 5)))
    value, gradient = style_loss(features, target)
    found, guided = style_loss(features, target, np.full((4, 4), 1 / 16))
    assert found == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(guided, gradient, rtol=1e-13)


def test_what_lies_outside_a_region_neither_counts_nor_moves(rng):
    features, other = rng.random((4, 6, 5)), rng.random((4, 6, 5))
    other[:, :4] = features[:, :4]
    weights = np.zeros((4, 6))
    weights[:, :4] = 1 / 16
    np.testing.assert_allclose(moments(features, weights).second, moments(features[:, :4]).second, rtol=1e-14)
    target = moments(rng.random((3, 6, 5)))
    for loss in STYLE_LOSSES.values():
        one, two = style_loss(features, target, weights, loss), style_loss(other, target, weights, loss)
        assert one[0] == two[0]
        assert not one[1][:, 4:].any()
        np.testing.assert_array_equal(one[1], two[1])


@pytest.mark.parametrize("name", STYLE_LOSSES)
def test_the_derivatives_in_the_moments_are_a_style_losses_own(rng, name):
    """dE/dm and dE/dS by themselves, not only through the features."""
    found, target = moments(rng.random((5, 4, 3))), moments(rng.random((3, 7, 3)))
    value, d_mean, d_second = STYLE_LOSSES[name](found, target)
    np.testing.assert_allclose(d_second, d_second.T, rtol=1e-13)
    h, turn = 1e-5, rng.standard_normal((3, 3))
    turn += turn.T
    for step, expected in (
        (Moments(np.zeros(3), turn), np.vdot(d_second, turn)),
        (Moments(turn[0], np.zeros((3, 3))), 0.0 if d_mean is None else d_mean @ turn[0]),
    ):
        ends = [
            STYLE_LOSSES[name](Moments(found.mean + k * h * step.mean, found.second + k * h * step.second), target)[0]
            for k in (1, -1)
        ]
        assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(expected, rel=1e-6, abs=1e-8)
    assert STYLE_LOSSES[name](target, target)[0] == pytest.approx(0, abs=1e-14)
    assert value > 0


def test_transport_of_one_filter_compares_mean_and_deviation():
    features, style = np.array([1.0, 2.0, 6.0]).reshape(1, 3, 1), np.array([0.0, 4.0]).reshape(2, 1, 1)
    value, _ = style_loss(features, moments(style), None, transport_loss)
    floor = 1e-4 * 4
    assert value == pytest.approx((3 - 2) ** 2 + (np.sqrt(14 / 3 + floor) - np.sqrt(4 + floor)) ** 2, rel=1e-12)


def test_transport_of_filters_that_respond_independently_is_the_spread_loss(rng):
    """Where both covariances are diagonal, their roots are the standard deviations."""
    signs = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    features, style = (rng.random(3) + signs * rng.random(3) for _ in range(2))
    found, target = moments(features[None]), moments(style[None])
    for ours, theirs in zip(transport_loss(found, target), spread_loss(found, target), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_step_against_the_transport_loss_arrives_at_the_style(rng):
    """F − N M/2 · dE/dF is where the map takes F: all features at once get the target's moments, but for ε."""
    features = rng.standard_normal((20, 30, 4)) @ rng.standard_normal((4, 4)) + rng.random(4)
    target = moments(rng.random((20, 20, 4)) @ rng.standard_normal((4, 4)))
    _, gradient = style_loss(features, target, None, transport_loss)
    moved = moments(features - 4 * 600 / 2 * gradient)
    np.testing.assert_allclose(moved.mean, target.mean, rtol=1e-12)
    np.testing.assert_allclose(moved.second, target.second, atol=1e-4 * np.abs(target.second).max())


@pytest.mark.parametrize("loss", STYLE_LOSSES.values())
@pytest.mark.parametrize("style", [np.zeros((2, 2, 3)), np.full((2, 2, 3), 7.0), np.ones((1, 1, 3))])
def test_a_style_that_is_all_alike_is_a_target_like_any_other(rng, loss, style):
    for features in (rng.random((4, 4, 3)), style):
        value, gradient = style_loss(features, moments(style), None, loss)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_transport_allows_for_filters_that_never_respond(rng):
    features = np.concatenate([rng.random((4, 4, 2)), np.zeros((4, 4, 2))], 2)
    value, gradient = style_loss(features, moments(features[:2]), None, transport_loss)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("d_mean", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_pulling_the_derivatives_back_is_the_adjoint_of_the_moments(rng, weighted, d_mean):
    """⟨dm, a⟩ + ⟨dS, B⟩ = ⟨dF, pull⟩ for a small change dF of the features."""
    features, change, weights = rng.random((4, 5, 3)), rng.standard_normal((4, 5, 3)), rng.random((4, 5))
    t = weights / weights.sum() if weighted else None
    a, b = rng.standard_normal(3) if d_mean else None, rng.standard_normal((3, 3))
    b += b.T
    h = 1e-6
    ends = [moments(features + k * h * change, t) for k in (1, -1)]
    slope = np.vdot((ends[0].second - ends[1].second) / (2 * h), b)
    slope += (ends[0].mean - ends[1].mean) @ a / (2 * h) if d_mean else 0
    assert slope == pytest.approx(np.vdot(moments_backward(features, t, a, b), change), rel=1e-8)


def test_tv_loss_is_the_sum_of_squared_neighbour_differences():
    image = np.array([[[1.0], [4.0]], [[2.0], [0.0]]])
    value, gradient = tv_loss(image)
    assert value == 1 + 16 + 9 + 4
    np.testing.assert_array_equal(gradient[:, :, 0], [[-8, 14], [6, -12]])


def test_nine_point_tv_is_the_sum_over_neighbours_in_its_docstring(rng):
    image = rng.uniform(0, 255, (4, 5, 3))
    x = np.pad(image / 255, ((1, 1), (1, 1), (0, 0)), "edge")
    inside = [(p, q) for p in range(1, 5) for q in range(1, 6)]
    corners = [(p, q) for p in range(5) for q in range(6)]
    across, down = (np.mean([(x[p + i, q + j] - x[p, q]) ** 2 for p, q in inside]) for i, j in ((0, 1), (1, 0)))
    falling = np.mean([(x[p + 1, q + 1] - x[p, q]) ** 2 for p, q in corners])
    rising = np.mean([(x[p + 1, q] - x[p, q + 1]) ** 2 for p, q in corners])
    expected = 2 * ((across + down) / 3 + (falling + rising) / 12)
    assert tv_nine_point_loss(image)[0] == pytest.approx(expected, rel=1e-13)


def test_the_laplacian_sees_bends_of_the_averaged_picture_and_nothing_else(rng):
    rows, columns = np.mgrid[:21, :18]
    ramp = np.stack([rows + 2 * columns, 3 * rows, 100 - columns], 2).astype(float)
    np.testing.assert_allclose(laplacian(ramp), np.zeros((3, 2)), atol=1e-12)  # odd rests are dropped
    image = np.zeros((12, 12, 3))
    image[5, 6, 0] = image[7, 7, 2] = 8  # within the window in the middle
    np.testing.assert_allclose(laplacian(image), [[4 * 16 / 16]])
    value, gradient = laplacian_loss(image, np.array([[1.0]]))
    assert value == 9
    assert gradient[4:8, 4:8] == pytest.approx(np.full((4, 4, 3), 2 * 3 * 4 / 16))
    assert gradient[:4, 4:8] == pytest.approx(np.full((4, 4, 3), -2 * 3 / 16))
    assert not gradient[:4, :4].any()


@pytest.mark.parametrize("size", [(12, 12), (21, 18), (15, 40), (37, 13)])
def test_the_laplacian_loss_has_its_own_gradient_and_none_at_its_target(rng, size):
    image, content = rng.uniform(0, 255, (*size, 3)), rng.uniform(0, 255, (*size, 3))
    assert gradient_error(lambda x: laplacian_loss(x, laplacian(content)), image, rng) < 1e-11
    value, gradient = laplacian_loss(content, laplacian(content))
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (11, 40)])
def test_a_picture_too_small_to_bend_has_no_laplacian_loss(rng, size):
    image, content = rng.random((*size, 3), np.float32), rng.random((*size, 3), np.float32)
    value, gradient = laplacian_loss(image, laplacian(content))
    assert value == 0
    assert gradient.shape == image.shape
    assert gradient.dtype == np.float32
    assert not gradient.any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("loss", ["content", "tv", *STYLE_LOSSES, *(f"guided {name}" for name in STYLE_LOSSES)])
def test_every_loss_has_its_own_gradient(rng, loss, shape):
    features, other, style = rng.random(shape), rng.random(shape), rng.random((3, 2, shape[2]))
    weights = rng.random(shape[:2])
    weights /= weights.sum()
    functions = {"content": lambda f: content_loss(f, other), "tv": tv_loss}
    for name, style_function in STYLE_LOSSES.items():
        functions[name] = lambda f, own=style_function: style_loss(f, moments(style), None, own)
        functions[f"guided {name}"] = lambda f, own=style_function: style_loss(f, moments(style), weights, own)
    if loss == "tv" and shape == (1, 1, 1):
        value, gradient = tv_loss(features)
        assert value == 0
        assert not gradient.any()
    else:
        exact = loss.removeprefix("guided ") in ("content", "tv", *POLYNOMIAL)  # then the differences are, too
        step, limit = (1.0, 1e-11) if exact else (3e-4, 1e-9)
        assert gradient_error(functions[loss], features, rng, step=step) < limit


def misprinted_style_gradient(f, style):
    """Some write-ups print (F − A) F."""
    value, _ = style_loss(f, moments(style))
    n = f.shape[2]
    return value, f @ (f.reshape(-1, n)[:n].T - moments(style).second) / (n**2 * f[:, :, 0].size)


def style_features_in_the_gradient(f, style):
    """One public program multiplies (G − A) by the style picture's features."""
    value, _ = style_loss(f, moments(style))
    return value, style @ (moments(f).second - moments(style).second) / (f.shape[2] ** 2 * f[:, :, 0].size)


def guide_once_in_the_gradient(f, style):
    """T² in the Gram matrix, but T in its derivative: the product is taken of guided features."""
    guide = np.linspace(1, 2, f[:, :, 0].size).reshape(f.shape[:2])
    guide /= np.linalg.norm(guide)
    value, gradient = style_loss(f, moments(style), guide**2)
    return value, gradient / guide[:, :, None]


def squared_factor_in_the_value_only(f, style):
    value, gradient = style_loss(f, moments(style))
    return value / (4 * f.shape[2] ** 2), gradient


def tv_missing_from_the_value(f, style):
    value, gradient = style_loss(f, moments(style))
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
