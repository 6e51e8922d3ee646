"""L-BFGS-B over the pixels: it converges, it reports, and it gives back the best image however it ends."""

import math

import numpy as np
import pytest

from nst_manual.optimise import lbfgsb


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


def test_it_finds_the_minimum(rng, centre):
    outcome = lbfgsb(bowl(centre), rng.uniform(0, 255, (4, 5, 3)), iterations=60)
    np.testing.assert_allclose(outcome.image, centre, atol=1e-3)


def test_bounds_hold_every_pixel_within_the_range(rng, centre):
    outcome = lbfgsb(bowl(centre), rng.uniform(0, 255, (4, 5, 3)), iterations=60, bounds=True)
    np.testing.assert_allclose(outcome.image, np.clip(centre, 0, 255), atol=1e-3)
    assert outcome.image.min() >= 0
    assert outcome.image.max() <= 255


def test_each_iteration_is_recorded_with_its_loss_and_terms(rng, centre):
    records = []
    outcome = lbfgsb(bowl(centre), rng.uniform(0, 255, (4, 5, 3)), iterations=7, callback=records.append)
    assert [record.iteration for record in records] == list(range(1, 8))
    losses = [record.loss for record in records]
    assert losses == sorted(losses, reverse=True)
    assert all(record.terms == {"bowl": record.loss} for record in records)
    assert outcome.loss == losses[-1]
    assert (outcome.stopped, outcome.iterations) == ("iterations", 7)
    assert outcome.evaluations == records[-1].evaluations


def test_no_iterations_give_the_start_back(rng, centre):
    start = rng.uniform(0, 255, (4, 5, 3))
    outcome = lbfgsb(bowl(centre), start, iterations=0)
    np.testing.assert_array_equal(outcome.image, start)
    assert outcome.stopped == "iterations"


def test_the_start_is_left_as_it_was(rng, centre):
    start = rng.uniform(0, 255, (4, 5, 3))
    before = start.copy()
    lbfgsb(bowl(centre), start, iterations=3)
    np.testing.assert_array_equal(start, before)


def test_a_small_gain_ends_it(rng, centre):
    outcome = lbfgsb(bowl(centre), rng.uniform(0, 255, (4, 5, 3)), iterations=500, tolerance=1e-3)
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


def test_ctrl_c_ends_it_with_the_best_so_far(rng, centre):
    def interrupt(record):
        if record.iteration == 4:
            raise KeyboardInterrupt

    outcome = lbfgsb(bowl(centre), rng.uniform(0, 255, (4, 5, 3)), iterations=50, callback=interrupt)
    assert (outcome.stopped, outcome.iterations) == ("interrupted", 4)
    assert bowl(centre)(outcome.image)[0] == outcome.loss


def test_a_callback_can_end_it(rng, centre):
    def enough(record):
        if record.iteration == 3:
            raise StopIteration

    outcome = lbfgsb(bowl(centre), rng.uniform(0, 255, (4, 5, 3)), iterations=50, callback=enough)
    assert (outcome.stopped, outcome.iterations) == ("callback", 3)


def test_an_error_in_the_callback_is_not_swallowed(rng, centre):
    def broken(record):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lbfgsb(bowl(centre), rng.uniform(0, 255, (4, 5, 3)), iterations=5, callback=broken)
