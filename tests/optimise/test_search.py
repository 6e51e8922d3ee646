"""Any optimiser: it converges, reports each iteration, and returns the best image however it ends."""

import gc
import json
import math
import weakref

import numpy as np
import pytest
from functions import bowl

from nst_manual import transfer
from nst_manual.optimise import OPTIMIZERS, Adam, Lbfgs, Lbfgsb, Record
from nst_manual.optimise.search import FIRST_STEP

SEARCHES = [Lbfgsb, Lbfgs, Adam]


@pytest.mark.parametrize("search", [Lbfgsb, Lbfgs])
def test_it_finds_the_minimum(start, centre, search):
    outcome = search(bowl(centre), start).run(iterations=60)
    np.testing.assert_allclose(outcome.image, centre, atol=1e-3)


@pytest.mark.parametrize("search", [Lbfgsb, Lbfgs])
def test_bounds_hold_every_pixel_within_the_range(start, centre, search):
    outcome = search(bowl(centre), start, bounds=True).run(iterations=60)
    np.testing.assert_allclose(outcome.image, np.clip(centre, 0, 255), atol=1e-3)
    assert outcome.image.min() >= 0
    assert outcome.image.max() <= 255


@pytest.mark.parametrize(("search", "options"), [(Lbfgsb, {}), (Lbfgs, {}), (Adam, {"learning_rate": 1.0})])
def test_each_iteration_is_recorded_with_its_loss_and_terms(start, centre, search, options):
    records = []
    outcome = search(bowl(centre), start, **options).run(iterations=7, callback=records.append)
    assert [record.iteration for record in records] == list(range(1, 8))
    losses = [record.loss for record in records]
    assert losses == sorted(losses, reverse=True)
    assert all(record.terms == {"bowl": record.loss} for record in records)
    assert outcome.loss == losses[-1]
    assert (outcome.stopped, outcome.iterations) == ("iterations", 7)
    assert outcome.evaluations == records[-1].evaluations


@pytest.mark.parametrize("search", SEARCHES)
def test_records_have_the_gradients_norm_and_the_length_of_each_step(rng, centre, search):
    function, start = bowl(centre), rng.uniform(100, 150, (4, 5, 3))
    records, images = [], [start]

    def seen(x):
        images.append(x.copy())
        return function(x)

    search(seen, start).run(iterations=4, callback=records.append)
    path = [images[0], *(images[record.evaluations] for record in records)]
    for record, before, after in zip(records, path, path[1:], strict=False):
        assert record.gradient == pytest.approx(np.linalg.norm(function(after)[1]))
        assert record.step == pytest.approx(np.sqrt(np.mean((after - before) ** 2)))


@pytest.mark.parametrize("search", [Lbfgsb, Lbfgs])
@pytest.mark.parametrize("bounds", [False, True])
@pytest.mark.parametrize("units", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("size", [4, 40])
def test_the_first_step_is_of_a_few_gray_levels_whatever_the_units_of_the_loss(rng, search, bounds, units, size):
    start, images = rng.uniform(100, 150, (size, 5, 3)), []

    def function(x):
        images.append(x.copy())
        loss, gradient, terms = bowl(np.full_like(start, 90.0))(x)
        return units * loss, units * gradient, terms

    search(function, start, bounds=bounds).run(iterations=1)
    np.testing.assert_array_equal(images[0], start)
    assert FIRST_STEP / 3 < np.sqrt(np.mean((images[1] - start) ** 2)) < 3 * FIRST_STEP


@pytest.mark.parametrize("search", SEARCHES)
def test_without_iterations_the_outcome_is_the_start(start, centre, search):
    outcome = search(bowl(centre), start).run(iterations=0)
    np.testing.assert_array_equal(outcome.image, start)
    assert outcome.stopped == "iterations"


@pytest.mark.parametrize("search", SEARCHES)
def test_the_start_is_not_changed(start, centre, search):
    before = start.copy()
    search(bowl(centre), start).run(iterations=3)
    np.testing.assert_array_equal(start, before)


# ---- Endings


@pytest.mark.parametrize("search", [Lbfgsb, Lbfgs])
def test_a_small_gain_ends_it(start, centre, search):
    def function(x):
        loss, gradient, terms = bowl(centre)(x)
        return loss + 1000, gradient, terms

    outcome = search(function, start).run(iterations=500, tolerance=1e-3)
    assert outcome.stopped == "converged"
    assert outcome.iterations < 50
    assert outcome.message == f"converged at iteration {outcome.iterations}: the loss hardly falls"


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("bounds", [False, True])
def test_a_start_at_a_minimum_ends_it_at_once(centre, search, bounds):
    inside = np.clip(centre, 0, 255)
    outcome = search(bowl(inside), inside, bounds=bounds).run(iterations=5)
    assert (outcome.stopped, outcome.loss, outcome.iterations) == ("converged", 0.0, 0)
    assert outcome.message == "converged at iteration 0: the gradient is zero"


@pytest.mark.parametrize("search", [Lbfgsb, Lbfgs])
def test_a_start_at_a_minimum_in_a_corner_of_the_bounds_ends_it_at_once(centre, search):
    outside = np.where(centre < 128, -50.0, 300.0)
    outcome = search(bowl(outside), np.clip(outside, 0, 255), bounds=True).run(iterations=5)
    assert (outcome.stopped, outcome.iterations) == ("converged", 0)
    assert outcome.message == "converged at iteration 0: the gradient is zero except where the bounds hold pixels back"


@pytest.mark.parametrize("search", [Lbfgsb, Lbfgs])
def test_a_start_that_no_step_improves_ends_it_at_once(start, search):
    outcome = search(lambda x: (float((x != start).any()), np.ones_like(x), {}), start).run(iterations=5)
    assert (outcome.stopped, outcome.iterations) == ("converged", 0)
    assert outcome.message == "converged at iteration 0: no step along the gradient lowers the loss"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_transfer_from_the_content_without_style_says_that_the_gradient_is_zero(rng, optimizer):
    content, style = (rng.integers(0, 256, (16, 16, 3), np.uint8) for _ in range(2))
    options = {"engine": "reference", "weights": "calibrated", "size": 16, "optimizer": optimizer}
    layers = {"content_layers": "conv1_2", "style_layers": "conv1_1"}
    result = transfer(content, style, style_weight=0, iterations=3, **options, **layers)
    assert (result.stopped, result.loss) == ("converged", 0)
    assert result.message == "converged at iteration 0: the gradient is zero"


@pytest.mark.parametrize("search", SEARCHES)
def test_ctrl_c_ends_it_with_the_best_so_far(start, centre, search):
    def interrupt(record):
        if record.iteration == 4:
            raise KeyboardInterrupt

    outcome = search(bowl(centre), start).run(iterations=50, callback=interrupt)
    assert (outcome.stopped, outcome.iterations) == ("interrupted", 4)
    assert bowl(centre)(outcome.image)[0] == outcome.loss


@pytest.mark.parametrize("search", SEARCHES)
def test_a_callback_can_end_it(start, centre, search):
    def enough(record):
        if record.iteration == 3:
            raise StopIteration

    outcome = search(bowl(centre), start).run(iterations=50, callback=enough)
    assert (outcome.stopped, outcome.iterations) == ("callback", 3)


@pytest.mark.parametrize("search", SEARCHES)
def test_an_error_in_the_callback_is_raised_and_leaves_no_memory_behind(start, centre, search):
    def broken(record):
        raise ZeroDivisionError

    class Big:
        def __call__(self, x):
            return bowl(centre)(x)

    def failed():
        function = Big()
        with pytest.raises(ZeroDivisionError):
            search(function, start).run(iterations=5, callback=broken)
        return weakref.ref(function)

    gc.collect()
    gc.disable()
    try:
        assert failed()() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("search", [Lbfgs, Adam])
@pytest.mark.parametrize("bounds", [False, True])
def test_on_the_device_a_step_to_where_the_loss_is_not_finite_is_halved(start, centre, bad, where, search, bounds):
    evaluations = []

    def function(x):
        loss, gradient, terms = bowl(centre)(x)
        evaluations.append(x.copy())
        if len(evaluations) in (2, 7, 8, 9):
            if where == "loss":
                return bad, gradient, terms
            gradient[0, 0, 0] = bad
        return loss, gradient, terms

    outcome = search(function, start, bounds=bounds).run(iterations=60)
    assert outcome.stopped in ("iterations", "converged")
    assert np.isfinite(outcome.image).all()
    assert outcome.loss < bowl(centre)(start)[0] / 2
    np.testing.assert_allclose(evaluations[2] - start, (evaluations[1] - start) / 2, atol=1e-9)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_start_that_is_not_finite_ends_it_again_and_again(start, search):
    broken = search(lambda x: (math.nan, np.zeros_like(x), {}), start)
    for evaluations in (1, 2):
        outcome = broken.run(iterations=5)
        assert (outcome.stopped, outcome.evaluations) == ("not finite", evaluations)
        np.testing.assert_array_equal(outcome.image, start)


@pytest.mark.parametrize("search", SEARCHES)
def test_if_only_the_start_is_finite_it_is_the_outcome(start, search):
    function = lambda x: (1.0 if (x == start).all() else math.inf, np.ones_like(x), {})  # noqa: E731
    outcome = search(function, start).run(iterations=5)
    assert outcome.stopped == "not finite"
    np.testing.assert_array_equal(outcome.image, start)


def test_a_record_as_json_has_null_for_what_is_not_a_finite_number():
    record = Record(3, 4, math.inf, {"style:conv1_1": math.nan, "tv": 2.0}, 1.5, scale=2, image=lambda: np.zeros(3))
    numbers = json.loads(json.dumps(record.numbers(), allow_nan=False))
    assert numbers["terms"] == {"style:conv1_1": None, "tv": 2.0}
    assert (numbers["iteration"], numbers["loss"], numbers["seconds"], numbers["scale"]) == (3, None, 1.5, 2)
    assert numbers["gradient"] is numbers["left"] is None  # not given
    assert "image" not in numbers
