"""Finite differences and the dot test, on functions whose slopes are known."""

import numpy as np
import pytest

from nst_manual.proof.differences import dot_test, gradient_error, numeric_slope


def test_five_points_are_exact_for_polynomials_of_degree_four(rng):
    c = rng.standard_normal(5)
    slope = numeric_slope(lambda x: float(np.polyval(c, x[0])), np.array([0.7]), np.array([2.0]))
    assert slope.value == pytest.approx(2 * np.polyval(np.polyder(c), 0.7), rel=1e-12)
    assert slope.step == 1


def test_a_step_never_crosses_a_kink():
    slope = numeric_slope(
        lambda x: float(np.abs(x).sum()), np.array([0.001]), np.array([1.0]), lambda x: (x > 0).tobytes()
    )
    assert slope.step < 0.0005
    assert slope.value == pytest.approx(1, rel=1e-9)


def test_without_a_region_the_same_kink_would_be_crossed():
    slope = numeric_slope(lambda x: float(np.abs(x).sum()), np.array([0.001]), np.array([1.0]))
    assert abs(slope.value - 1) > 0.9


def test_a_point_on_a_kink_is_reported_not_passed():
    error = gradient_error(
        lambda x: (np.abs(x).sum(), np.sign(x)),
        np.array([0.0, 1.0]),
        np.random.default_rng(0),
        lambda x: (x > 0).tobytes(),
    )
    assert error == np.inf


@pytest.mark.parametrize("wrong", [1.001, -1.0, 0.0])
def test_a_wrong_gradient_fails(rng, wrong):
    assert gradient_error(lambda x: ((x**2).sum(), 2 * wrong * x), rng.random((3, 4)), rng) > 9e-4
    assert gradient_error(lambda x: ((x**2).sum(), 2 * x), rng.random((3, 4)), rng) < 1e-12


def test_a_single_wrong_corner_fails(rng):
    def gradient(x):
        g = 2 * x
        g.flat[-1] *= 1.01
        return (x**2).sum(), g

    assert gradient_error(gradient, rng.random((30, 40)) + 1, rng, directions=0, pixels=0) > 1e-3


def test_the_dot_test_ignores_a_constant_and_sees_a_wrong_transpose(rng):
    a = rng.standard_normal((4, 3))
    x, d_y = rng.standard_normal(3), rng.standard_normal(4)
    assert dot_test(lambda x: a @ x + 7, lambda d: a.T @ d, x, d_y) < 1e-15
    assert dot_test(lambda x: a @ x, lambda d: a.T @ d * 1.01, x, d_y) > 1e-4
