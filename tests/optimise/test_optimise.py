"""SciPy's L-BFGS-B, our L-BFGS and Adam over the pixels: they converge, report, and give back the best image however
they end; ours follows SciPy's, stays within bounds and on its device, and goes on from a state as if never stopped."""

import json
import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from device_stand_in import OnDevice
from threadpoolctl import threadpool_limits

from nst_manual.optimise import Adam, Ended, Lbfgs, Lbfgsb, Record, adam, lbfgs, lbfgsb, run
from nst_manual.optimise.line_search import CURVATURE, SUFFICIENT, LineSearch, Point

SEARCHES = [lbfgsb, lbfgs, adam]


def bowl(centre):
    """½ ‖x − centre‖², with a steeper axis; the gradient in float32, as the engines give it."""

    def function(x):
        scale = np.ones_like(x)
        scale[0] = 30
        difference = x - centre
        loss = float((scale * difference**2).sum() / 2)
        return loss, (scale * difference).astype(np.float32), {"bowl": loss}

    return function


@pytest.fixture
def centre(rng):
    return rng.uniform(-100, 355, (4, 5, 3))


@pytest.mark.parametrize("search", [lbfgsb, lbfgs])
def test_it_finds_the_minimum(rng, centre, search):
    outcome = search(bowl(centre), rng.uniform(0, 255, (4, 5, 3)), iterations=60)
    np.testing.assert_allclose(outcome.image, centre, atol=1e-3)


@pytest.mark.parametrize("search", [lbfgsb, lbfgs])
def test_bounds_hold_every_pixel_within_the_range(rng, centre, search):
    outcome = search(bowl(centre), rng.uniform(0, 255, (4, 5, 3)), iterations=60, bounds=True)
    np.testing.assert_allclose(outcome.image, np.clip(centre, 0, 255), atol=1e-3)
    assert outcome.image.min() >= 0
    assert outcome.image.max() <= 255


@pytest.mark.parametrize("search", [lbfgsb, lbfgs, partial(adam, learning_rate=1.0)])
def test_each_iteration_is_recorded_with_its_loss_and_terms(rng, centre, search):
    records = []
    outcome = search(bowl(centre), rng.uniform(0, 255, (4, 5, 3)), iterations=7, callback=records.append)
    assert [record.iteration for record in records] == list(range(1, 8))
    losses = [record.loss for record in records]
    assert losses == sorted(losses, reverse=True)
    assert all(record.terms == {"bowl": record.loss} for record in records)
    assert outcome.loss == losses[-1]
    assert (outcome.stopped, outcome.iterations) == ("iterations", 7)
    assert outcome.evaluations == records[-1].evaluations


@pytest.mark.parametrize("search", SEARCHES)
def test_no_iterations_give_the_start_back(rng, centre, search):
    start = rng.uniform(0, 255, (4, 5, 3))
    outcome = search(bowl(centre), start, iterations=0)
    np.testing.assert_array_equal(outcome.image, start)
    assert outcome.stopped == "iterations"


@pytest.mark.parametrize("search", SEARCHES)
def test_the_start_is_left_as_it_was(rng, centre, search):
    start = rng.uniform(0, 255, (4, 5, 3))
    before = start.copy()
    search(bowl(centre), start, iterations=3)
    np.testing.assert_array_equal(start, before)


@pytest.mark.parametrize("search", [lbfgsb, lbfgs])
def test_a_small_gain_ends_it(rng, centre, search):
    outcome = search(bowl(centre), rng.uniform(0, 255, (4, 5, 3)), iterations=500, tolerance=1e-3)
    assert outcome.stopped == "converged"
    assert outcome.iterations < 50


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("when", [1, 5])
def test_a_loss_that_is_not_finite_ends_it_with_the_best_so_far(rng, centre, bad, where, when):
    evaluations = []

    def function(x):
        loss, gradient, terms = bowl(centre)(x)
        evaluations.append(loss)
        if len(evaluations) == when:
            if where == "loss":
                return bad, gradient, terms
            gradient[0, 0, 0] = bad
        return loss, gradient, terms

    start = rng.uniform(0, 255, (4, 5, 3))
    outcome = lbfgsb(function, start, iterations=50)
    assert outcome.stopped == "not finite"
    assert len(evaluations) == when
    assert np.isfinite(outcome.image).all()
    if when == 1:
        np.testing.assert_array_equal(outcome.image, start)
        assert math.isinf(outcome.loss)
    else:
        assert outcome.loss == min(evaluations[:-1])
        assert bowl(centre)(outcome.image)[0] == outcome.loss


@pytest.mark.parametrize("search", SEARCHES)
def test_ctrl_c_ends_it_with_the_best_so_far(rng, centre, search):
    def interrupt(record):
        if record.iteration == 4:
            raise KeyboardInterrupt

    outcome = search(bowl(centre), rng.uniform(0, 255, (4, 5, 3)), iterations=50, callback=interrupt)
    assert (outcome.stopped, outcome.iterations) == ("interrupted", 4)
    assert bowl(centre)(outcome.image)[0] == outcome.loss


@pytest.mark.parametrize("search", SEARCHES)
def test_a_callback_can_end_it(rng, centre, search):
    def enough(record):
        if record.iteration == 3:
            raise StopIteration

    outcome = search(bowl(centre), rng.uniform(0, 255, (4, 5, 3)), iterations=50, callback=enough)
    assert (outcome.stopped, outcome.iterations) == ("callback", 3)


@pytest.mark.parametrize("search", SEARCHES)
def test_an_error_in_the_callback_is_not_swallowed(rng, centre, search):
    def broken(record):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search(bowl(centre), rng.uniform(0, 255, (4, 5, 3)), iterations=5, callback=broken)


# ---- L-BFGS and Adam on the device, with NumPy as the device


def rosenbrock(x):
    """Σ 100 (b − a²)² + (1 − a)² over neighbours a, b: a bent valley."""
    a, b = x.reshape(-1)[:-1], x.reshape(-1)[1:]
    rise, rest = b - a**2, 1 - a
    gradient = np.zeros(x.size, x.dtype)
    gradient[1:] += 200 * rise
    gradient[:-1] -= 400 * rise * a + 2 * rest
    return float((100 * rise**2).sum() + (rest**2).sum()), gradient.reshape(x.shape), {}


@pytest.fixture
def quadratic(rng):
    """½ (x − c)ᵀ A (x − c), A with eigenvalues 1 … 1000, c partly out of 0 … 255."""
    turn = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    a = (turn * np.logspace(0, 3, 60)) @ turn.T
    centre = rng.uniform(-200, 400, 60)

    def function(x):
        difference = x.reshape(-1) - centre
        pull = a @ difference
        return float(difference @ pull / 2), pull.reshape(x.shape).astype(x.dtype), {}

    return function


@pytest.fixture
def softened(rng):
    """Σ log 2 cosh (A (x − c)): convex, nearly straight far out, curved near its minimum."""
    a = rng.standard_normal((60, 60)) / 10
    centre = rng.uniform(-200, 400, 60)

    def function(x):
        r = a @ (x.reshape(-1) - centre)
        return float(np.logaddexp(r, -r).sum()), (a.T @ np.tanh(r)).reshape(x.shape), {}

    return function


@pytest.mark.parametrize("problem", ["rosenbrock", "quadratic", "softened"])
@pytest.mark.parametrize("history", [3, 10])
def test_in_float64_it_goes_the_way_of_scipys(rng, request, problem, history):
    function = rosenbrock if problem == "rosenbrock" else request.getfixturevalue(problem)
    start = rng.uniform(-1, 1, (5, 4, 3)) if problem == "rosenbrock" else rng.uniform(0, 255, (5, 4, 3))
    for iterations in range(1, 21):
        theirs = lbfgsb(function, start, iterations=iterations, history=history)
        ours = lbfgs(function, start, iterations=iterations, history=history)
        np.testing.assert_allclose(ours.image, theirs.image, rtol=1e-6, atol=1e-6 * np.abs(start).max())
        assert ours.evaluations == theirs.evaluations
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-6)
    # Later, rounding takes them apart on the way, but not in where it leads.
    theirs, ours = (search(function, start, iterations=2000, history=history) for search in (lbfgsb, lbfgs))
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("problem", ["quadratic", "softened"])
def test_within_bounds_it_reaches_scipys_minimum_and_every_iteration_lowers_the_loss(rng, request, problem):
    function, start = request.getfixturevalue(problem), rng.uniform(0, 255, (5, 4, 3))
    theirs, records = lbfgsb(function, start, iterations=3000, bounds=True), []
    ours = lbfgs(function, start, iterations=3000, bounds=True, callback=records.append)
    losses = [record.loss for record in records]
    assert losses == sorted(losses, reverse=True)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-9)
    np.testing.assert_allclose(ours.image, theirs.image, atol=0.01)
    assert 0.2 < np.mean((ours.image == 0) | (ours.image == 255)) < 0.8
    assert ours.evaluations < 2 * theirs.evaluations


def test_bounds_hold_at_every_evaluation(rng, softened):
    seen = []

    def function(x):
        seen.append((x.min(), x.max()))
        return softened(x)

    for search in (lbfgs, partial(adam, learning_rate=20.0)):
        search(function, rng.uniform(-300, 555, (5, 4, 3)), iterations=30, bounds=True)
    assert min(low for low, _ in seen) == 0
    assert max(high for _, high in seen) == 255


def test_float32_vectors_reach_the_same_loss(rng, quadratic):
    start = rng.uniform(0, 255, (5, 4, 3))
    exact = lbfgs(quadratic, start, iterations=40)
    coarse = lbfgs(quadratic, start.astype(np.float32), iterations=40)
    assert coarse.image.dtype == np.float32
    assert coarse.loss == pytest.approx(exact.loss, rel=0.05)


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 5, 3), (32, 32, 3), (33, 31, 3), (80, 81, 3)])
@pytest.mark.parametrize("bounds", [False, True])
def test_its_dot_products_are_those_of_float64_at_any_size(rng, shape, bounds):
    """Sizes below, at and beyond a block's and a chunk's; the ring goes round twice."""
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


def test_a_new_unit_of_the_loss_changes_nothing(rng):
    start = rng.uniform(-1, 1, (4, 4, 3))
    for search in (lbfgs, partial(adam, learning_rate=0.1)):
        outcomes = []
        for unit in (2.0**-60, 1.0, 2.0**60):  # powers of 2, so that not even rounding differs

            def function(x, unit=unit):
                loss, gradient, terms = rosenbrock(x)
                return unit * loss, unit * gradient, terms

            outcomes.append(search(function, start, iterations=40))
        for outcome in outcomes:
            np.testing.assert_allclose(outcome.image, outcomes[1].image, rtol=1e-9)
            assert outcome.evaluations == outcomes[1].evaluations


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("search", [lbfgs, adam])
@pytest.mark.parametrize("bounds", [False, True])
def test_a_step_to_where_the_loss_is_not_finite_is_halved(rng, centre, bad, where, search, bounds):
    evaluations = []

    def function(x):
        loss, gradient, terms = bowl(centre)(x)
        evaluations.append(x.copy())
        if len(evaluations) in (2, 7, 8, 9):
            if where == "loss":
                return bad, gradient, terms
            gradient[0, 0, 0] = bad
        return loss, gradient, terms

    start = rng.uniform(0, 255, (4, 5, 3))
    outcome = search(function, start, iterations=60, bounds=bounds)
    assert outcome.stopped in ("iterations", "converged")
    assert np.isfinite(outcome.image).all()
    assert outcome.loss < bowl(centre)(start)[0] / 2
    np.testing.assert_allclose(evaluations[2] - start, (evaluations[1] - start) / 2, atol=1e-9)


@pytest.mark.parametrize("search", [lbfgs, adam])
def test_a_start_that_is_not_finite_ends_it(rng, search):
    start = rng.uniform(0, 255, (4, 5, 3))
    outcome = search(lambda x: (math.nan, np.zeros_like(x), {}), start, iterations=5)
    assert (outcome.stopped, outcome.evaluations) == ("not finite", 1)
    np.testing.assert_array_equal(outcome.image, start)
    only_start = search(lambda x: (1.0 if (x == start).all() else math.inf, np.ones_like(x), {}), start, iterations=5)
    assert only_start.stopped == "not finite"
    np.testing.assert_array_equal(only_start.image, start)


def test_a_minimum_to_begin_with_is_told(rng, centre):
    for search in (lbfgs, adam):
        outcome = search(bowl(centre), centre, iterations=5)
        assert (outcome.stopped, outcome.loss, outcome.iterations) == ("converged", 0.0, 0)
    outside = np.where(centre < 128, -50.0, 300.0)
    corner = np.clip(outside, 0, 255)
    outcome = lbfgs(bowl(outside), corner, iterations=5, bounds=True)
    assert (outcome.stopped, outcome.iterations) == ("converged", 0)


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


# ---- States


def searches(function, start):
    yield partial(Lbfgs, function, start, history=4)
    yield partial(Lbfgs, function, start.astype(np.float32), history=4, bounds=True)
    yield partial(Adam, function, start, learning_rate=3.0, averaging=0.9)
    yield partial(Adam, function, start.astype(np.float32), learning_rate=3.0, bounds=True)


@pytest.mark.parametrize("stop", [0, 1, 3, 11])
def test_a_continued_search_does_bit_for_bit_what_an_uninterrupted_one_does(rng, softened, stop):
    for make in searches(softened, rng.uniform(0, 255, (5, 4, 3))):
        whole, first = make(), make()
        once = run(whole, iterations=25)
        run(first, iterations=stop) if stop else None
        state = {
            name: value.copy() if isinstance(value, np.ndarray) else value for name, value in first.state().items()
        }
        run(first, iterations=stop + 2)  # what it does later must not touch the state
        numbers = {name: value for name, value in state.items() if not isinstance(value, np.ndarray)}
        state |= json.loads(json.dumps(numbers))  # plain enough for any file
        second = type(first).restored(softened, state)
        again = run(second, iterations=25)
        np.testing.assert_array_equal(again.image, once.image)
        np.testing.assert_array_equal(second.image, whole.image)
        assert (again.loss, again.iterations, again.evaluations) == (once.loss, once.iterations, once.evaluations)
        assert again.image.dtype == once.image.dtype


def test_after_ctrl_c_in_an_evaluation_the_state_is_that_of_the_last_iteration(rng, softened):
    for make in searches(softened, rng.uniform(0, 255, (5, 4, 3))):
        whole, search = make(), make()
        once = run(whole, iterations=15)
        run(search, iterations=6)

        def interrupted(x):
            raise KeyboardInterrupt

        search.function = interrupted
        assert run(search, iterations=15).stopped == "interrupted"
        again = run(type(search).restored(softened, search.state()), iterations=15)
        np.testing.assert_array_equal(again.image, once.image)


def test_a_search_that_its_function_ended_goes_on_as_if_it_had_not(rng, softened):
    for make in searches(softened, rng.uniform(0, 255, (5, 4, 3))):
        whole = make()
        once = run(whole, iterations=15)
        for allowed in range(1, once.evaluations, 3):
            search = make()
            calls = []

            def function(x, calls=calls, allowed=allowed):
                if len(calls) == allowed:
                    raise Ended("time limit", "the time is up")
                calls.append(x)
                return softened(x)

            search.function = function
            outcome = run(search, iterations=15)
            assert (outcome.stopped, outcome.message) == ("time limit", "the time is up")
            again = run(type(search).restored(softened, search.state()), iterations=15)
            np.testing.assert_array_equal(again.image, once.image)


def test_scipys_own_arithmetic_gets_one_blas_thread_and_the_function_the_users(rng, centre, known_blas, blas_threads):
    inside, between = [], []

    def function(x):
        inside.append(blas_threads())
        return bowl(centre)(x)

    with threadpool_limits(2, user_api="blas"):
        users = blas_threads()
        start = rng.uniform(0, 255, centre.shape)
        lbfgsb(function, start, iterations=3, callback=lambda _: between.append(blas_threads()))
        assert blas_threads() == users
    assert all(found == users for found in inside)
    assert between == [{1}] * 3


def test_scipys_search_goes_on_from_its_image_with_a_new_memory(rng, centre):
    function, start = bowl(centre), rng.uniform(0, 255, (4, 5, 3))
    first = Lbfgsb(function, start, bounds=True)
    before = first.run(iterations=3)
    second = Lbfgsb.restored(function, first.state())
    after = second.run(iterations=8)
    assert (before.iterations, after.iterations) == (3, 8)
    assert after.loss < before.loss
    assert after.evaluations > before.evaluations
    assert second.run(iterations=8).message == "all 8 iterations done"


@pytest.mark.parametrize("search", SEARCHES)
def test_records_tell_the_gradients_norm_and_how_far_each_step_went(rng, centre, search):
    function, start = bowl(centre), rng.uniform(100, 150, (4, 5, 3))
    records, images = [], [start]

    def seen(x):
        images.append(x.copy())
        return function(x)

    search(seen, start, iterations=4, callback=records.append)
    path = [images[0], *(images[record.evaluations] for record in records)]
    for record, before, after in zip(records, path, path[1:], strict=False):
        assert record.gradient == pytest.approx(np.linalg.norm(function(after)[1]))
        assert record.step == pytest.approx(np.sqrt(np.mean((after - before) ** 2)))


def test_a_state_of_another_rule_is_refused(rng, softened):
    state = Adam(softened, rng.uniform(0, 255, (5, 4, 3))).state()
    with pytest.raises(ValueError, match="a state of adam can't go on as lbfgs"):
        Lbfgs.restored(softened, state)


# ---- Adam


def test_adam_follows_its_formulas(rng):
    start = rng.uniform(-1, 1, (3, 4, 3))
    x, m, v = start.copy(), 0.0, 0.0
    unit = np.sqrt(np.mean(rosenbrock(x)[1] ** 2))
    for k in range(1, 16):
        g = rosenbrock(x)[1] / unit
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - 0.02 * (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
    search = Adam(rosenbrock, start, learning_rate=0.02)
    run(search, iterations=15)
    np.testing.assert_allclose(search.image.reshape(x.shape), x, rtol=1e-9)


def test_adams_average_calms_a_noisy_gradient(rng, centre):
    noise = np.random.default_rng(5)

    def function(x):
        loss, gradient, terms = bowl(centre)(x)
        return loss, gradient + noise.normal(0, 300, x.shape), terms

    start = centre + 50
    single, averaged = (adam(function, start, iterations=400, averaging=a, learning_rate=5.0) for a in (0.0, 0.98))
    assert averaged.loss < single.loss
    assert averaged.loss == pytest.approx(bowl(centre)(averaged.image)[0])


def test_adam_ends_when_ten_iterations_gain_little(rng, centre):
    outcome = adam(bowl(centre), rng.uniform(0, 255, (4, 5, 3)), iterations=5000, tolerance=1e-3, learning_rate=5.0)
    assert outcome.stopped == "converged"
    assert outcome.iterations < 2000


# ---- A device that is not the host


@pytest.mark.parametrize("search", [lbfgs, adam, partial(adam, averaging=0.9)])
@pytest.mark.parametrize("bounds", [False, True])
def test_only_numbers_leave_the_device_and_once_per_evaluation(rng, centre, search, bounds, monkeypatch):
    monkeypatch.setattr(OnDevice, "fetches", 0)
    there = OnDevice(centre.astype(np.float32))

    def function(x):
        difference = x - there
        terms = {"one": np.sum(difference * difference, dtype=np.float64), "two": np.sum(0 * x, dtype=np.float64)}
        return terms["one"] + terms["two"], 2 * difference, terms

    start = rng.uniform(0, 255, (4, 5, 3)).astype(np.float32)
    records = []
    outcome = search(function, OnDevice(start), iterations=20, bounds=bounds, callback=records.append)
    assert OnDevice.fetches == outcome.evaluations
    assert outcome.image.array.dtype == np.float32
    assert records[-1].terms["one"] == pytest.approx(records[-1].loss)

    def on_host(x):
        difference = x - there.array
        return float(np.sum(difference * difference, dtype=np.float64)), 2 * difference, {}

    np.testing.assert_allclose(
        outcome.image.array, search(on_host, start, iterations=20, bounds=bounds).image, atol=0.1
    )


def test_a_record_as_json_has_null_for_what_is_not_a_number():
    record = Record(3, 4, math.inf, {"style:conv1_1": math.nan, "tv": 2.0}, 1.5, scale=2, image=lambda: np.zeros(3))
    numbers = json.loads(json.dumps(record.numbers(), allow_nan=False))
    assert numbers["terms"] == {"style:conv1_1": None, "tv": 2.0}
    assert (numbers["iteration"], numbers["loss"], numbers["seconds"], numbers["scale"]) == (3, None, 1.5, 2)
    assert numbers["gradient"] is numbers["left"] is None  # nobody has told them
    assert "image" not in numbers


def test_scipy_is_loaded_by_the_first_search_and_its_blas_is_one_of_those_that_are_set(known_blas):
    program = """
import sys
import numpy as np
from threadpoolctl import threadpool_info
import nst_manual.cli.main
from nst_manual.engines.blas import one_blas_thread
from nst_manual.optimise import lbfgsb

def threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

with one_blas_thread:
    pass
assert "scipy.optimize" not in sys.modules
before, between = threads(), []
search = dict(iterations=2, callback=lambda record: between.append(threads()))
with one_blas_thread:
    lbfgsb(lambda x: (float((x * x).sum()), 2 * x, {}), np.ones((2, 2, 3)), **search)
    inside = threads()
lbfgsb(lambda x: (float((x * x).sum()), 2 * x, {}), np.ones((2, 2, 3)), **search)
assert len(between) >= 2 and all(set(found) == {1} for found in [*between, inside]), (between, inside)
assert set(threads()) == set(before), (threads(), before)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
