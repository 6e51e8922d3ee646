"""SciPy's L-BFGS-B: numbers that are not finite end it, its own arithmetic uses one BLAS thread, and SciPy is loaded
only when needed."""

import math
import subprocess
import sys

import numpy as np
import pytest
from functions import bowl
from threadpoolctl import threadpool_limits

from nst_manual.optimise import Lbfgsb, lbfgsb


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("when", [1, 5])
def test_a_loss_that_is_not_finite_ends_it_with_the_best_so_far(start, centre, bad, where, when):
    evaluations = []

    def function(x):
        loss, gradient, terms = bowl(centre)(x)
        evaluations.append(loss)
        if len(evaluations) == when:
            if where == "loss":
                return bad, gradient, terms
            gradient[0, 0, 0] = bad
        return loss, gradient, terms

    outcome = Lbfgsb(function, start).run(iterations=50)
    assert outcome.stopped == "not finite"
    assert len(evaluations) == when
    assert np.isfinite(outcome.image).all()
    if when == 1:
        np.testing.assert_array_equal(outcome.image, start)
        assert math.isinf(outcome.loss)
    else:
        assert outcome.loss == min(evaluations[:-1])
        assert bowl(centre)(outcome.image)[0] == outcome.loss


def test_it_continues_from_its_image_with_a_new_memory(start, centre):
    function = bowl(centre)
    first = Lbfgsb(function, start, bounds=True)
    before = first.run(iterations=3)
    second = Lbfgsb.restored(function, first.state())
    after = second.run(iterations=8)
    assert (before.iterations, after.iterations) == (3, 8)
    assert after.loss < before.loss
    assert after.evaluations > before.evaluations
    assert second.run(iterations=8).message == "all 8 iterations done"


def test_scipys_own_arithmetic_gets_one_blas_thread_and_the_function_the_users(start, centre, known_blas, blas_threads):
    inside, between = [], []

    def function(x):
        inside.append(blas_threads())
        return bowl(centre)(x)

    with threadpool_limits(2, user_api="blas"):
        users = blas_threads()
        Lbfgsb(function, start).run(iterations=3, callback=lambda _: between.append(blas_threads()))
        assert blas_threads() == users
    assert all(found == users for found in inside)
    assert between == [{1}] * 3


def test_scipy_is_loaded_by_the_first_search_and_its_blas_is_limited_too(known_blas):
    program = """
import sys
import numpy as np
from threadpoolctl import threadpool_info
import nst_manual.cli.main
from nst_manual.engines.blas import one_blas_thread
from nst_manual.optimise import Lbfgsb, lbfgsb

def threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

def search():
    start = np.ones((2, 2, 3))
    Lbfgsb(lambda x: (float((x * x).sum()), 2 * x, {}), start).run(iterations=2, callback=record)

def record(_):
    between.append(threads())

with one_blas_thread:
    pass
assert "scipy.optimize" not in sys.modules
before, between = threads(), []
with one_blas_thread:
    search()
    inside = threads()
search()
assert len(between) >= 2 and all(set(found) == {1} for found in [*between, inside]), (between, inside)
assert set(threads()) == set(before), (threads(), before)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("bounds", [False, True])
def test_a_history_longer_than_the_run_changes_nothing_and_takes_no_memory(start, centre, bounds):
    function = bowl(centre)
    usual, long = (
        Lbfgsb(function, start, bounds=bounds, history=history).run(iterations=4).image for history in (10, 100_000)
    )
    np.testing.assert_array_equal(usual, long)


def test_without_room_for_scipy_nothing_is_evaluated(start, centre, monkeypatch):
    evaluations = []

    def function(x):
        evaluations.append(x)
        return bowl(centre)(x)

    def no_room():
        raise MemoryError("SciPy's optimiser takes 164 MiB to load; --optimizer lbfgs works without it")

    monkeypatch.setattr(lbfgsb, "fmin_l_bfgs_b", no_room)
    with pytest.raises(MemoryError, match="--optimizer lbfgs works without it"):
        Lbfgsb(function, start).run(iterations=3)
    assert not evaluations
    assert Lbfgsb(function, start).run(iterations=0).iterations == 0  # which needs no optimiser
