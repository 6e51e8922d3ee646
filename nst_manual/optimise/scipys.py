"""SciPy's L-BFGS-B over the pixels. The only room that knows SciPy's flat float64 vectors; all of it on the host."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.optimize import minimize

from ..arrays import Array
from .records import PIXEL_RANGE, NotFinite, Outcome, Record

Function = Callable[[Array], tuple[float, Array, Mapping[str, float]]]


def lbfgsb(
    function: Function,
    start: Array,
    *,
    iterations: int,
    history: int = 10,
    tolerance: float = 0.0,
    bounds: bool = False,
    callback: Callable[[Record], object] | None = None,
) -> Outcome:
    """SciPy's L-BFGS-B over the pixels, within 0 … 255 if `bounds`.

    It ends after so many iterations, or when an iteration lowers the loss by less than `tolerance` of it. A loss that
    is not a finite number ends it too, and so do Ctrl-C and a callback that raises StopIteration: always with the best
    image so far.
    """
    began = time.perf_counter()
    best_loss, best = math.inf, np.array(start, dtype=np.float64)
    evaluations, iteration = 0, 0
    terms: Mapping[str, float] = {}  # of the latest evaluation, which is the one that an iteration ends with

    def value_and_gradient(x: Array) -> tuple[float, Array]:
        nonlocal best_loss, evaluations, terms
        image = x.reshape(start.shape)
        loss, gradient, terms = function(image)
        evaluations += 1
        if not (math.isfinite(loss) and np.isfinite(gradient).all()):
            raise NotFinite(f"the loss or its gradient is not finite at evaluation {evaluations} (loss {loss})")
        if loss < best_loss:
            best_loss = loss
            best[...] = image
        return loss, gradient.astype(np.float64).ravel()

    def after_iteration(intermediate_result: Any) -> None:
        nonlocal iteration
        iteration += 1
        if callback is not None:
            loss = float(intermediate_result.fun)
            callback(Record(iteration, evaluations, loss, terms, time.perf_counter() - began))

    def outcome(stopped: str, message: str) -> Outcome:
        return Outcome(best, best_loss, iteration, evaluations, stopped, message)

    try:
        if iterations == 0:  # SciPy would do one
            value_and_gradient(best.ravel().copy())
            return outcome("iterations", "no iterations asked for")
        result = minimize(
            value_and_gradient,
            best.ravel().copy(),
            jac=True,
            method="L-BFGS-B",
            bounds=[PIXEL_RANGE] * start.size if bounds else None,
            callback=after_iteration,
            options={
                "maxiter": iterations,
                "maxfun": 20 * iterations + 20,
                "maxcor": history,
                "ftol": tolerance,
                "gtol": 0.0,
            },
        )
    except NotFinite as error:
        return outcome("not finite", f"{error}; the picture is the best before it")
    except KeyboardInterrupt:
        return outcome("interrupted", "interrupted; the picture is the best so far")
    if result.status == 99:  # SciPy's number for StopIteration from the callback
        return outcome("callback", "ended by the callback")
    if iteration >= iterations:
        return outcome("iterations", f"all {iterations} iterations done")
    return outcome("converged", f"no more progress after {iteration} iterations: {result.message}")
