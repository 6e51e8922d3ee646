"""L-BFGS and Adam on a device: they continue exactly from a state, and only numbers leave the device."""

import json
from functools import partial

import numpy as np
import pytest
from device_stand_in import OnDevice

from nst_manual.optimise import Adam, Ended, Lbfgs


def searches(function, start):
    yield partial(Lbfgs, function, start, history=4)
    yield partial(Lbfgs, function, start.astype(np.float32), history=4, bounds=True)
    yield partial(Adam, function, start, learning_rate=3.0)
    yield partial(Adam, function, start.astype(np.float32), learning_rate=3.0, bounds=True)


@pytest.mark.parametrize("stop", [0, 1, 3, 11])
def test_a_continued_search_does_bit_for_bit_what_an_uninterrupted_one_does(rng, softened, stop):
    for make in searches(softened, rng.uniform(0, 255, (5, 4, 3))):
        whole, first = make(), make()
        once = whole.run(iterations=25)
        if stop:
            first.run(iterations=stop)
        state = {
            name: value.copy() if isinstance(value, np.ndarray) else value for name, value in first.state().items()
        }
        first.run(iterations=stop + 2)  # what it does later must not touch the state
        numbers = {name: value for name, value in state.items() if not isinstance(value, np.ndarray)}
        state |= json.loads(json.dumps(numbers))  # plain enough for any file
        second = type(first).restored(softened, state)
        again = second.run(iterations=25)
        np.testing.assert_array_equal(again.image, once.image)
        np.testing.assert_array_equal(second.image, whole.image)
        assert (again.loss, again.iterations, again.evaluations) == (once.loss, once.iterations, once.evaluations)
        assert again.image.dtype == once.image.dtype


def test_after_ctrl_c_in_an_evaluation_the_state_is_that_of_the_last_iteration(rng, softened):
    for make in searches(softened, rng.uniform(0, 255, (5, 4, 3))):
        whole, search = make(), make()
        once = whole.run(iterations=15)
        search.run(iterations=6)

        def interrupted(x):
            raise KeyboardInterrupt

        search.function = interrupted
        assert search.run(iterations=15).stopped == "interrupted"
        again = type(search).restored(softened, search.state()).run(iterations=15)
        np.testing.assert_array_equal(again.image, once.image)


def test_a_search_that_its_function_ended_continues_as_if_nothing_had_happened(rng, softened):
    for make in searches(softened, rng.uniform(0, 255, (5, 4, 3))):
        once = make().run(iterations=15)
        for allowed in range(1, once.evaluations, 3):
            search = make()
            calls = []

            def function(x, calls=calls, allowed=allowed):
                if len(calls) == allowed:
                    raise Ended("time limit", "the time is up")
                calls.append(x)
                return softened(x)

            search.function = function
            outcome = search.run(iterations=15)
            assert (outcome.stopped, outcome.message) == ("time limit", "the time is up")
            again = type(search).restored(softened, search.state()).run(iterations=15)
            np.testing.assert_array_equal(again.image, once.image)


def test_a_state_that_does_not_fit_is_refused(rng, softened):
    state = Adam(softened, rng.uniform(0, 255, (5, 4, 3))).state()
    with pytest.raises(ValueError, match="the state is one of adam, not of lbfgs"):
        Lbfgs.restored(softened, state)
    with pytest.raises(ValueError, match="numbers were expected"):
        Adam.restored(softened, state | {"second": np.zeros(7)})
    with pytest.raises(ValueError, match="iteration must be of type int, not str"):
        Adam.restored(softened, state | {"iteration": "3"})


@pytest.mark.parametrize("search", [Lbfgs, Adam])
def test_a_search_goes_on_from_its_own_state_on_the_device(start, centre, search):
    there = OnDevice(centre.astype(np.float32))

    def function(x):
        difference = x - there
        return np.sum(difference * difference, dtype=np.float64), 2 * difference, {}

    first = search(function, OnDevice(start.astype(np.float32)))
    first.run(iterations=3)
    again = search.restored(function, first.state())
    one, other = first.run(iterations=6), again.run(iterations=6)
    np.testing.assert_array_equal(other.image.array, one.image.array)
    assert other.loss == one.loss


@pytest.mark.parametrize("search", [Lbfgs, Adam])
@pytest.mark.parametrize("bounds", [False, True])
def test_only_numbers_leave_the_device_and_once_per_evaluation(start, centre, search, bounds, monkeypatch):
    monkeypatch.setattr(OnDevice, "fetches", 0)
    there, start = OnDevice(centre.astype(np.float32)), start.astype(np.float32)

    def function(x):
        difference = x - there
        terms = {"one": np.sum(difference * difference, dtype=np.float64), "two": np.sum(0 * x, dtype=np.float64)}
        return terms["one"] + terms["two"], 2 * difference, terms

    records = []
    outcome = search(function, OnDevice(start), bounds=bounds).run(iterations=20, callback=records.append)
    assert OnDevice.fetches == outcome.evaluations
    assert outcome.image.array.dtype == np.float32
    assert records[-1].terms["one"] == pytest.approx(records[-1].loss)

    def on_host(x):
        difference = x - there.array
        return float(np.sum(difference * difference, dtype=np.float64)), 2 * difference, {}

    expected = search(on_host, start, bounds=bounds).run(iterations=20).image
    np.testing.assert_allclose(outcome.image.array, expected, atol=0.1)
