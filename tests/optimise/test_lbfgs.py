"""Our L-BFGS: without bounds its iterates are SciPy's, and within bounds it reaches the same minima."""

import math

import numpy as np
import pytest
from functions import rosenbrock
from tracing import memory_of

from nst_manual.optimise import Adam, Lbfgs, Lbfgsb
from nst_manual.optimise.line_search import CURVATURE, SUFFICIENT, LineSearch, Point


@pytest.mark.parametrize("problem", ["rosenbrock", "quadratic", "softened"])
@pytest.mark.parametrize("history", [3, 10])
def test_in_float64_its_iterates_are_scipys(rng, request, problem, history):
    function = rosenbrock if problem == "rosenbrock" else request.getfixturevalue(problem)
    start = rng.uniform(-1, 1, (5, 4, 3)) if problem == "rosenbrock" else rng.uniform(0, 255, (5, 4, 3))
    for iterations in range(1, 21):
        theirs = Lbfgsb(function, start, history=history).run(iterations=iterations)
        ours = Lbfgs(function, start, history=history).run(iterations=iterations)
        np.testing.assert_allclose(ours.image, theirs.image, rtol=1e-6, atol=1e-6 * np.abs(start).max())
        assert ours.evaluations == theirs.evaluations
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-6)
    # Later, rounding errors separate the two paths, but both end at the same loss.
    theirs, ours = (search(function, start, history=history).run(iterations=2000) for search in (Lbfgsb, Lbfgs))
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("problem", ["quadratic", "softened"])
def test_within_bounds_it_reaches_scipys_minimum_and_every_iteration_lowers_the_loss(rng, request, problem):
    function, start = request.getfixturevalue(problem), rng.uniform(0, 255, (5, 4, 3))
    theirs, records = Lbfgsb(function, start, bounds=True).run(iterations=3000), []
    ours = Lbfgs(function, start, bounds=True).run(iterations=3000, callback=records.append)
    losses = [record.loss for record in records]
    assert losses == sorted(losses, reverse=True)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-9)
    np.testing.assert_allclose(ours.image, theirs.image, atol=0.01)
    assert 0.2 < np.mean((ours.image == 0) | (ours.image == 255)) < 0.8
    assert ours.evaluations < 2 * theirs.evaluations


@pytest.mark.parametrize(("search", "options"), [(Lbfgs, {}), (Adam, {"learning_rate": 20.0})])
def test_bounds_hold_at_every_evaluation(rng, softened, search, options):
    seen = []

    def function(x):
        seen.append((x.min(), x.max()))
        return softened(x)

    search(function, rng.uniform(-300, 555, (5, 4, 3)), bounds=True, **options).run(iterations=30)
    assert min(low for low, _ in seen) == 0
    assert max(high for _, high in seen) == 255


def test_float32_vectors_reach_the_same_loss(rng, quadratic):
    start = rng.uniform(0, 255, (5, 4, 3))
    exact = Lbfgs(quadratic, start).run(iterations=40)
    coarse = Lbfgs(quadratic, start.astype(np.float32)).run(iterations=40)
    assert coarse.image.dtype == np.float32
    assert coarse.loss == pytest.approx(exact.loss, rel=0.05)


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 5, 3), (32, 32, 3), (33, 31, 3), (80, 81, 3)])
@pytest.mark.parametrize("bounds", [False, True])
def test_its_dot_products_are_those_of_float64_at_any_size(rng, shape, bounds):
    """Sizes below, at and beyond a block's and a chunk's; every pair of the ring is replaced."""
    centre = rng.uniform(-100, 355, shape).astype(np.float32)
    steep = rng.uniform(1, 30, shape).astype(np.float32)

    def function(x):
        difference = x - centre
        return float((steep * difference**2).sum(dtype=np.float64) / 2), steep * difference, {}

    search = Lbfgs(function, rng.uniform(0, 255, shape).astype(np.float32), history=4, bounds=bounds)
    search.begin()
    for _ in range(9):
        if search.step():
            break
        free = search.free if bounds else np.ones(search.image.size)
        rows = search.rows.astype(np.float64)
        columns = np.vstack([rows[4:], search.gradient]) * free
        expected = np.vstack([rows, search.gradient]) @ columns.T
        latest = search.order[-1]
        pairs = search.order if bounds else [latest]
        size = np.linalg.norm(np.vstack([rows, search.gradient]), axis=1)
        for k in pairs:
            scale = size * size[4 + k] + 1e-300
            np.testing.assert_allclose(search.table[:, k] / scale, expected[:, k] / scale, atol=1e-5)
        np.testing.assert_allclose(search.table[:, 4], expected[:, 4], atol=1e-5 * size[-1] * size.max())


def test_an_iteration_makes_no_array_as_long_as_the_picture(rng):
    """Or large pictures would need it."""
    centre = rng.uniform(-100, 355, (1500, 1000, 3)).astype(np.float32)
    gradient = np.empty_like(centre)

    def function(x):
        np.subtract(x, centre, out=gradient)
        return float(np.vdot(gradient, gradient)) / 2, gradient, {}

    search = Lbfgs(function, np.zeros_like(centre), history=2, bounds=True)
    search.begin()

    def iterate():
        for _ in range(2):
            assert search.step() is None

    assert memory_of(iterate) < search.image.nbytes / 10


@pytest.mark.parametrize(("search", "options"), [(Lbfgs, {}), (Adam, {"learning_rate": 0.1})])
def test_a_new_unit_of_the_loss_changes_nothing(rng, search, options):
    start, outcomes = rng.uniform(-1, 1, (4, 4, 3)), []
    for unit in (2.0**-60, 1.0, 2.0**60):  # powers of 2, so that not even rounding differs

        def function(x, unit=unit):
            loss, gradient, terms = rosenbrock(x)
            return unit * loss, unit * gradient, terms

        outcomes.append(search(function, start, **options).run(iterations=40))
    for outcome in outcomes:
        np.testing.assert_allclose(outcome.image, outcomes[1].image, rtol=1e-9)
        assert outcome.evaluations == outcomes[1].evaluations


@pytest.mark.parametrize("curve", [lambda t: (t - 3) ** 2, lambda t: math.cosh(t / 20 - 1), lambda t: t**4 - 2 * t])
@pytest.mark.parametrize("unit", [1e-3, 1.0, 50.0])
def test_a_line_search_ends_where_both_conditions_hold(curve, unit):
    def point(t):
        h = 1e-6
        return Point(t, curve(unit * t), (curve(unit * t + h) - curve(unit * t - h)) / (2 * h) * unit)

    start = point(0.0)
    line, t = LineSearch(start.loss, start.slope, 1e10), 1.0
    for _ in range(15):
        if line.accepts(point(t)):
            break
        t = line.following(point(t))
    assert point(t).loss <= start.loss + SUFFICIENT * t * start.slope
    assert abs(point(t).slope) <= CURVATURE * abs(start.slope)
