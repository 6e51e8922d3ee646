"""The proof must itself be able to fail."""

import re

import numpy as np
import pytest

from nst_manual.engines import open_engine
from nst_manual.proof import checks as verify
from nst_manual.proof.checks import MEAN, NARROW, Check, checks, dot_test, gradient_error, numeric_slope, random_filters
from nst_manual.vgg import Network, Pool, Relu


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


def broken_at_one_pixel(monkeypatch):
    """conv2_1's derivative alone, the only one of 8 channels in a narrow network that has 6 below it."""
    right = verify.layers.conv_backward

    def wrong(d_y, kernel):
        d_x = right(d_y, kernel)
        if kernel.shape[2:] == (6, 8):
            d_x[0, -1, 2] *= 1.5
        return d_x

    monkeypatch.setattr(verify.layers, "conv_backward", wrong)


def test_a_failure_says_which_step_where_what_was_expected_and_what_was_found(rng, monkeypatch):
    broken_at_one_pixel(monkeypatch)
    image, content, style = (rng.uniform(0, 255, (16, 19, 3)) for _ in range(3))
    engine = open_engine("reference", "float64")
    check = verify.check_objective("gatys", "avg", (image, content), [verify.Style(style)], rng, engine)
    text = check.explanation()
    assert not check.passed
    assert text.startswith("objective, gatys, avg pooling: by finite differences its relative error is ")
    assert "the first step that is wrong by itself is conv2_1: " in text
    assert "\n" not in text
    for part in (text, text.split("conv2_1")[1]):
        assert re.search(r"at (row|random direction) .*expected \S+, found \S+ \(step \S+\)", part)


def test_every_step_is_proved_at_its_own_features_and_only_the_wrong_one_fails(rng, monkeypatch):
    for pooling in ("avg", "max"):
        steps = verify.steps_for({"pre:conv3_2", "conv5_1"}, NARROW)
        filters = random_filters(NARROW, 3)
        network = Network.build(open_engine("reference", "float64"), filters, MEAN, steps, pooling)
        image = rng.uniform(0, 255, (17, 22, 3))
        table = list(verify.walk_checks(network, image, rng))
        assert [check.name for check in table] == [step.name for step in steps]
        assert [check.explanation() for check in table if not check.passed] == []
        assert [check.name for check in table if check.adjoint is None] == [
            step.name for step in steps if isinstance(step, Relu) or (isinstance(step, Pool) and pooling == "max")
        ]
    broken_at_one_pixel(monkeypatch)
    assert [check.name for check in verify.walk_checks(network, image, rng) if not check.passed] == ["conv2_1"]


def test_a_right_derivative_has_nothing_to_explain():
    assert Check("x", numeric=1e-9).explanation() == ""
    assert "x: by the dot test its relative error is nan" in Check("x", adjoint=float("nan")).explanation()


def test_the_worst_of_two_checks_keeps_its_place():
    at = [verify.Finding(name, 1.0, 2.0) for name in ("here", "there")]
    one, other = (Check("x", numeric=error, findings={"numeric": f}) for error, f in zip((1e-9, 1e-3), at, strict=True))
    assert one.worse(other).findings["numeric"].where == other.worse(one).findings["numeric"].where == "there"
