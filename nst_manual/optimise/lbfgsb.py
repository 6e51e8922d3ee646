"""SciPy's L-BFGS-B over the pixels. The only room that knows SciPy's flat float64 vectors; all of it on the host."""

import math
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from ..arrays import Array
from ..engines.blas import one_blas_thread
from .records import PIXEL_RANGE, Ended, NotFinite, Outcome, Record

Function = Callable[[Array], tuple[float, Array, Mapping[str, float]]]
State = dict[str, Any]


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
    """SciPy's L-BFGS-B from a start, within 0 … 255 if `bounds`; how it ends: see `Lbfgsb.run`."""
    search = Lbfgsb(function, start, history=history, bounds=bounds)
    return search.run(iterations=iterations, tolerance=tolerance, callback=callback)


@cache
def fmin_l_bfgs_b() -> Callable[..., Any]:
    """SciPy's, which is loaded when a search first asks for it: a third of a second, and 49 MB."""
    from scipy import optimize

    one_blas_thread.look_again()
    search: Callable[..., Any] = optimize.fmin_l_bfgs_b
    return search


class Lbfgsb:
    """The search. What SciPy remembers stays inside SciPy: one that is restored starts its memory anew.

    SciPy's own arithmetic gets one BLAS thread: its products of vectors wait for memory, and several threads spend
    several times as long in waiting for each other. The function runs with the user's setting.
    """

    rule = "l-bfgs-b"

    def __init__(self, function: Function, start: Array, *, history: int = 10, bounds: bool = False) -> None:
        self.function, self.history, self.bounds = function, history, bounds
        self.image = np.array(start, dtype=np.float64)  # where the latest iteration ended
        if bounds:
            np.clip(self.image, *PIXEL_RANGE, out=self.image)
        self.best, self.best_loss = self.image.copy(), math.inf
        self.iteration = self.evaluations = 0
        self.terms: Mapping[str, float] = {}  # of the latest evaluation, which is the one that an iteration ends with
        self.gradient = math.nan  # its norm there

    def run(
        self,
        *,
        iterations: int,
        tolerance: float = 0.0,
        callback: Callable[[Record], object] | None = None,
    ) -> Outcome:
        """It ends after so many iterations in all, or when one lowers the loss by less than `tolerance` of it.

        A loss that is not a finite number ends it too, and so do Ctrl-C, a function that raises `Ended`, memory that
        runs out later than at the first evaluation, and a callback that raises StopIteration: always with the best
        image so far.
        """
        began = time.perf_counter()

        def after_iteration(intermediate_result: Any) -> None:
            self.iteration += 1
            moved = intermediate_result.x - self.image.ravel()
            self.image.ravel()[...] = intermediate_result.x
            if callback is not None:
                step = math.sqrt(moved @ moved / moved.size)
                seconds, loss = time.perf_counter() - began, float(intermediate_result.fun)
                record = Record(self.iteration, self.evaluations, loss, self.terms, seconds, self.gradient, step)
                try:
                    callback(record)
                except StopIteration:
                    self.ended = True
                    raise  # SciPy knows it too

        self.ended = False  # by the callback
        try:
            stopped, message = self._search(iterations, tolerance, after_iteration)
        except NotFinite as error:
            stopped, message = "not finite", f"{error}; the picture is the best before it"
        except Ended as ended:
            stopped, message = ended.stopped, str(ended)
        except KeyboardInterrupt:
            stopped, message = "interrupted", "interrupted; the picture is the best so far"
        except MemoryError as error:
            if math.isinf(self.best_loss):
                raise
            stopped, message = "out of memory", f"out of memory: {error}; the picture is the best so far"
        return Outcome(self.best.copy(), self.best_loss, self.iteration, self.evaluations, stopped, message)

    def _search(self, iterations: int, tolerance: float, after_iteration: Callable[..., None]) -> tuple[str, str]:
        """Why SciPy stopped, in a word and in a sentence."""
        if not iterations:  # SciPy would do one
            with one_blas_thread:
                self._value_and_gradient(self.image.ravel().copy())
            return "iterations", "no iterations asked for"
        if self.iteration < iterations:
            search = fmin_l_bfgs_b()
            with one_blas_thread:
                # Not by `minimize`, which would make a tuple of two numbers for each bound, 130 bytes per number.
                _, _, result = search(
                    self._value_and_gradient,
                    self.image.ravel().copy(),
                    bounds=[PIXEL_RANGE] * self.image.size if self.bounds else None,
                    callback=after_iteration,
                    maxiter=iterations - self.iteration,
                    maxfun=20 * iterations + 20,
                    m=self.history,
                    factr=tolerance / np.finfo(float).eps,
                    pgtol=0.0,
                )
            if self.ended:
                return "callback", "ended by the callback"
            if self.iteration < iterations:
                return "converged", f"no more progress after {self.iteration} iterations: {result['task']}"
        return "iterations", f"all {iterations} iterations done"

    def _value_and_gradient(self, x: Array) -> tuple[float, Array]:
        image = x.reshape(self.image.shape)
        with one_blas_thread.left():
            loss, gradient, self.terms = self.function(image)
        self.evaluations += 1
        d_x = gradient.astype(np.float64).ravel()
        self.gradient = math.sqrt(d_x @ d_x)
        if not (math.isfinite(loss) and math.isfinite(self.gradient)):
            raise NotFinite(f"the loss or its gradient is not finite at evaluation {self.evaluations} (loss {loss})")
        if loss < self.best_loss:
            self.best_loss = loss
            self.best[...] = image
        return loss, d_x

    def state(self) -> State:
        """All that can be told of a search; its arrays are the search's own."""
        names = ("history", "bounds", "image", "best", "best_loss", "iteration", "evaluations")
        return {"rule": self.rule, "shape": list(self.image.shape)} | {name: getattr(self, name) for name in names}

    @classmethod
    def restored(cls, function: Function, state: Mapping[str, Any]) -> "Lbfgsb":
        """A search from where that state's was, without what SciPy had learned of the curvature."""
        if state["rule"] != cls.rule:
            raise ValueError(f"a state of {state['rule']} can't go on as {cls.rule}")
        if state["best"].shape != state["image"].shape:
            raise ValueError("its two images are of different sizes")
        search = cls(function, state["image"], history=state["history"], bounds=state["bounds"])
        search.best[...] = state["best"]
        search.best_loss, search.iteration, search.evaluations = (
            state[name] for name in ("best_loss", "iteration", "evaluations")
        )
        return search
