"""SciPy's L-BFGS-B over the pixels, on the host and in float64. No other file calls SciPy's optimiser."""

import math
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ..arrays import Array
from ..engines.blas import one_blas_thread
from ..engines.cpu.memory import is_room_for
from ..engines.cpu.threads import available_threads
from .records import PIXEL_RANGE, NotFinite
from .search import NO_STEP, Function, Search, first_length, power_of_2

SCIPY_ROOM, SCIPY_ROOM_PER_CORE = 80 << 20, 42 << 20  # bytes of addresses that loading it takes


class Lbfgsb(Search):
    """SciPy's L-BFGS-B. SciPy does not expose its memory of the curvature, so a restored search starts it anew.

    SciPy's first step is of norm 1, or with bounds the gradient itself, whatever the units. So it is given the picture
    in units of its own, in which this is a step of a few gray levels. They are powers of 2: nothing is rounded.

    SciPy's own arithmetic gets one BLAS thread: its products of vectors are limited by memory, and several threads
    would mostly wait for each other. The function runs with the number of threads that it had outside.
    """

    rule = "l-bfgs-b"
    settings = ("history", "bounds")
    arrays = ("image", "best")
    numbers = ("best_loss", "iteration", "evaluations")

    def __init__(self, function: Function, start: Array, *, history: int = 10, bounds: bool = False) -> None:
        super().__init__(function, start, bounds, np.float64)
        self.history = history

    def _minimise(self, iterations: int, tolerance: float, report: Callable[[], None]) -> str | None:
        def after_iteration(intermediate_result: Any) -> None:  # SciPy looks at the parameter's name
            self.iteration += 1
            step = intermediate_result.x * unit
            step -= self.image
            self.moved = math.sqrt(step @ step / step.size)
            np.multiply(intermediate_result.x, unit, out=self.image)
            self.loss = float(intermediate_result.fun)
            report()

        if 0 < iterations <= self.iteration:
            return None
        minimise = fmin_l_bfgs_b() if iterations else None
        with one_blas_thread:
            known = [self._value_and_gradient(self.image)]
            if minimise is None:  # without iterations SciPy would do one
                return None
            unit = self._unit()
            low, high = (end / unit for end in PIXEL_RANGE)

            def function(x: Array) -> tuple[float, Array]:
                loss, d_x = known.pop() if known else self._value_and_gradient(x * unit)
                d_x *= unit
                return loss, d_x

            # Not scipy.optimize.minimize, which makes a tuple of two numbers for each bound: 130 bytes per number.
            _, _, result = minimise(
                function,
                self.image / unit,
                bounds=[(low, high)] * self.image.size if self.bounds else None,
                callback=after_iteration,
                maxiter=iterations - self.iteration,
                maxfun=math.inf,
                m=min(self.history, iterations - self.iteration),  # it takes memory for all m², used or not
                factr=tolerance / np.finfo(float).eps,
                pgtol=0.0,
            )
        if self.iteration == iterations:
            return None
        if result["warnflag"]:
            return NO_STEP
        return self._no_slope() if "GRADIENT" in result["task"] else "the loss hardly falls"

    def _unit(self) -> float:
        """c, for the picture as c z. Then SciPy's first step, in gray levels, is of norm c, or with bounds c² times the
        gradient, of which it takes what stays within them."""
        length = first_length(self.image.size)
        bounded = self.bounds and self.norm > 0
        return power_of_2(math.sqrt(length / self.norm)) if bounded else length

    def _value_and_gradient(self, x: Array) -> tuple[float, Array]:
        with one_blas_thread.released():
            loss, gradient, terms = self.function(x.reshape(self.shape))
        self.evaluations += 1
        self.terms = dict(terms)  # an iteration ends with its last evaluation, so these are the iteration's
        d_x = gradient.astype(np.float64).ravel()
        self.norm = math.sqrt(d_x @ d_x)
        if not (math.isfinite(loss) and math.isfinite(self.norm)):
            raise NotFinite(f"at evaluation {self.evaluations} (loss {loss})")
        if loss < self.best_loss:
            self.best_loss = loss
            self.best[...] = x
        return loss, d_x


@cache
def fmin_l_bfgs_b() -> Callable[..., Any]:
    """SciPy's function. SciPy is loaded when a search first needs it: that takes a third of a second and 49 MB."""
    room = SCIPY_ROOM + SCIPY_ROOM_PER_CORE * available_threads()
    if "scipy.optimize" not in sys.modules and not is_room_for(room):  # its BLAS could wait for memory for ever
        raise MemoryError(f"SciPy's optimiser takes {room >> 20} MiB to load; --optimizer lbfgs works without it")
    from scipy import optimize

    one_blas_thread.include_new_libraries()
    function: Callable[..., Any] = optimize.fmin_l_bfgs_b
    return function
