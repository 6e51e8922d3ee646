"""The proof must itself be able to fail."""

import numpy as np
import pytest

from nst_manual import verify
from nst_manual.verify import Check, checks, dot_test, gradient_error, numeric_slope


def test_five_points_are_exact_for_polynomials_of_degree_four(rng):
    c = rng.standard_normal(5)
    slope = numeric_slope(lambda x: float(np.polyval(c, x[0])), np.array([0.7]), np.array([2.0]))
    assert slope.value == pytest.approx(2 * np.polyval(np.polyder(c), 0.7), rel=1e-12)
    assert slope.step == 1


def test_a_step_never_crosses_a_kink():
    slope = numeric_slope(
        lambda x: float(np.abs(x).sum()), np.array([0.001]), np.array([1.0]), lambda x: (x > 0).tobytes()
    )
    assert slope.inside
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


def test_a_check_fails_by_any_of_its_columns():
    assert Check("x", adjoint=1e-15, numeric=1e-9, pytorch=1e-14, engine=1e-6).passed
    assert not Check("x", adjoint=1e-9).passed
    assert not Check("x", numeric=1e-5).passed
    assert not Check("x", pytorch=1e-8).passed
    assert not Check("x", engine=1e-3).passed
    assert not Check("x", engine=float("nan")).passed
    assert not Check("x", engine=1e-6, engine_limit=1e-10).passed


def test_every_derivative_is_right():
    table = list(checks())
    assert [check.name for check in table if not check.passed] == []
    assert len(table) == 23


@pytest.mark.parametrize("name", ["conv_backward", "relu_backward", "average_pool_backward", "max_pool_backward"])
def test_the_table_names_the_layer_whose_derivative_is_wrong(monkeypatch, name):
    right = getattr(verify.layers, name)
    monkeypatch.setattr(verify.layers, name, lambda *arguments: right(*arguments) * 1.01)
    rng = np.random.default_rng(0)
    wrong = [
        check.name for check in (verify.check_layer(pair, rng) for pair in verify.layer_pairs(rng)) if not check.passed
    ]
    assert wrong == [
        {"conv": "convolution", "relu": "ReLU", "average": "average pooling", "max": "max pooling"}[name.split("_")[0]]
    ]
