"""What a search on the device is made of, whichever rule moves the image, and the loop that runs it.

The image and all vectors stay where the start was, flat, in its precision. Whatever the host must know of an
evaluation – the loss, its terms, dot products – is fetched in one piece: one wait for the device per evaluation. With
`bounds`, every pixel stays within 0 … 255.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import Array, Scalar
from .records import PIXEL_RANGE, Ended, NotFinite, Outcome, Record
from .vectors import Vectors

# Image → (loss, gradient, terms), with image and gradient on the device; so may the loss and the terms be, for then
# they are fetched with everything else.
Function = Callable[[Array], tuple[Scalar, Array, Mapping[str, Scalar]]]
State = dict[str, Any]
Kind = Callable[[Array, int], Vectors]  # from an image and a history, what computes over such vectors

TRIALS = 20  # evaluations that one step may take


class Search(ABC):
    """A point, the best point seen, and counts. `step` moves it; between two steps `state` tells all there is to it."""

    rule: str  # of this class, for its states
    settings: tuple[str, ...]  # attributes that are settings
    arrays: tuple[str, ...]  # attributes that are arrays on the device
    numbers: tuple[str, ...]  # attributes that are numbers, or lists or dicts of them

    def __init__(self, function: Function, start: Array, bounds: bool, history: int, vectors: Kind | None) -> None:
        self.function, self.bounds, self.shape = function, bounds, start.shape
        dtype = start.dtype if start.dtype in (np.float32, np.float64) else np.dtype(np.float64)
        self.image = start.reshape(-1).astype(dtype)
        if bounds:
            np.clip(self.image, *PIXEL_RANGE, out=self.image)
        self.trial = np.zeros_like(self.image)
        self.best = self.image.copy()
        self.loss = self.best_loss = math.inf
        self.terms: dict[str, float] = {}
        self.iteration = self.evaluations = 0
        self.vectors: Vectors = (vectors or Vectors)(self.image, history)

    @abstractmethod
    def begin(self) -> None:
        """Evaluates the start; raises NotFinite."""

    @abstractmethod
    def step(self) -> str | None:
        """One iteration; or, if there is none that lowers the loss, why. Raises NotFinite."""

    @abstractmethod
    def measures(self) -> tuple[float, float]:
        """The gradient's norm where the last step ended, and the step's own norm; the host knows both already."""

    def gained_little(self, before: float, tolerance: float) -> bool:
        """Whether the last step, from a loss of `before`, was not worth it."""
        return before - self.loss <= tolerance * max(abs(before), abs(self.loss))

    def result(self) -> tuple[Array, float, int]:
        """The best image, its loss, and the evaluations made for it; nothing changes by asking."""
        return self.best, self.best_loss, self.evaluations

    def evaluate(
        self, image: Array, gradient: Array, products: Callable[[], Array]
    ) -> tuple[float, dict[str, float], list[float]]:
        """The loss, its terms and the products at an image, for which its gradient is first put into `gradient`."""
        loss, d_image, terms = self.function(image.reshape(self.shape))
        self.evaluations += 1
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is found by the products
            gradient[...] = d_image.reshape(-1)
            numbers, fetched = fetch([loss, *terms.values()], products())
        if numbers[0] < self.best_loss and all(map(math.isfinite, fetched)):
            self.best[...] = image
            self.best_loss = numbers[0]
        return numbers[0], dict(zip(terms, numbers[1:], strict=True)), fetched

    def run(
        self,
        *,
        iterations: int,
        tolerance: float = 0.0,
        callback: Callable[[Record], object] | None = None,
    ) -> Outcome:
        """Steps until it ends: see the function of that name."""
        return run(self, iterations=iterations, tolerance=tolerance, callback=callback)

    def state(self) -> State:
        """All that a search needs to go on exactly as this one would: arrays on the device, numbers, lists, words.

        The arrays are the search's own: whoever wants to keep them over the next step copies them.
        """
        state: State = {"rule": self.rule, "shape": list(self.shape)}
        state |= {name: getattr(self, name) for name in self.settings}
        state |= {name: getattr(self, name) for name in self.arrays}
        state |= {name: _copied(getattr(self, name)) for name in self.numbers}
        return state

    @classmethod
    def restored(cls, function: Function, state: Mapping[str, Any], vectors: Kind | None = None) -> "Search":
        """The search whose state that was, with the same function and vectors."""
        if state["rule"] != cls.rule:
            raise ValueError(f"a state of {state['rule']} can't go on as {cls.rule}")
        image = state["image"].reshape(state["shape"])
        search = cls(function, image, vectors=vectors, **{name: state[name] for name in cls.settings})
        for name in cls.arrays:
            ours = getattr(search, name)
            _check_shape(name, ours, state[name])
            ours[...] = np.asarray(state[name], like=search.image)
        for name in cls.numbers:
            ours, value = getattr(search, name), _copied(state[name])
            if isinstance(ours, np.ndarray):
                value = np.array(value, ours.dtype)
                _check_shape(name, ours, value)
            elif not isinstance(value, float | int if isinstance(ours, float) else type(ours)):
                raise ValueError(f"{name} is no {type(ours).__name__}")
            setattr(search, name, value)
        return search


def run(
    search: Search,
    *,
    iterations: int,
    tolerance: float = 0.0,
    callback: Callable[[Record], object] | None = None,
) -> Outcome:
    """Steps until there are so many iterations in all, or until one lowers the loss by less than `tolerance` of it.

    A start whose loss is not a finite number ends it too, and so do Ctrl-C, a function that raises `Ended`, memory that
    runs out later than at the first evaluation, and a callback that raises StopIteration: always with the best image
    so far.
    """
    began = time.perf_counter()

    def outcome(stopped: str, message: str, result: tuple[Array, float, int] | None = None) -> Outcome:
        image, loss, evaluations = result or (search.best, search.best_loss, search.evaluations)
        return Outcome(image.reshape(search.shape).copy(), loss, search.iteration, evaluations, stopped, message)

    def go_on() -> tuple[str, str]:
        if not search.evaluations:
            search.begin()
        while search.iteration < iterations:
            before = search.loss
            if reason := search.step():
                return "converged", f"no more progress after {search.iteration} iterations: {reason}"
            if callback is not None:
                seconds = time.perf_counter() - began
                gradient, step = search.measures()
                step /= math.sqrt(search.image.size)
                record = Record(
                    search.iteration, search.evaluations, search.loss, search.terms, seconds, gradient, step
                )
                try:
                    callback(record)
                except StopIteration:
                    return "callback", "ended by the callback"
            if search.gained_little(before, tolerance):
                return "converged", f"no more progress after {search.iteration} iterations: the loss hardly falls"
        return "iterations", f"all {iterations} iterations done" if iterations else "no iterations asked for"

    try:
        return outcome(*go_on(), search.result())
    except NotFinite as error:
        return outcome("not finite", f"{error}; the picture is the best before it")
    except Ended as ended:
        return outcome(ended.stopped, str(ended))
    except KeyboardInterrupt:
        return outcome("interrupted", "interrupted; the picture is the best so far")
    except MemoryError as error:
        if math.isinf(search.best_loss):
            raise
        reason = str(error)
    # Only here the error has let go of what the evaluation had in memory.
    return outcome("out of memory", f"out of memory: {reason}; the picture is the best so far")


def fetch(numbers: Sequence[Scalar], products: Array) -> tuple[list[float], list[float]]:
    """Both on the host, by a single copy from the device; numbers that are on the host already stay out of it."""
    waiting = [k for k, number in enumerate(numbers) if hasattr(number, "shape") and not isinstance(number, np.generic)]
    parts = [numbers[k].reshape(1).astype(np.float64, copy=False) for k in waiting]
    fetched = np.concatenate([*parts, products.reshape(-1)]).tolist()
    values = dict(enumerate(numbers)) | dict(zip(waiting, fetched, strict=False))
    return [float(value) for value in values.values()], fetched[len(waiting) :]


def _check_shape(name: str, ours: Array, theirs: Array) -> None:
    if ours.shape != theirs.shape:
        raise ValueError(f"{name} is {theirs.shape}, not {ours.shape}")


def _copied(value: Any) -> Any:
    if isinstance(value, np.ndarray):  # a small table of the host's, as numbers
        return value.tolist()
    return value.copy() if isinstance(value, list | dict) else value
