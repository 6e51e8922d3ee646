"""The parts that the optimisers share: `Search` runs any of them and keeps its state; `DeviceSearch` adds what L-BFGS
and Adam have in common.

A `DeviceSearch` leaves its vectors on the start's device, flat and in the start's precision. The numbers that the host
needs (the loss, its terms, dot products) are fetched in one piece: one wait for the device per evaluation.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from ..arrays import Array, Scalar
from .history import fill
from .records import PIXEL_RANGE, Ended, Outcome, Record
from .vectors import Vectors

# Image → (loss, gradient, terms). For a DeviceSearch all of them may be on the device.
Function = Callable[[Array], tuple[Scalar, Array, Mapping[str, Scalar]]]
State = dict[str, Any]
MakeVectors = Callable[[Array, int], Vectors]  # from an image and the number of remembered pairs

TRIALS = 20  # most evaluations in one step
FIRST_STEP = 2.0  # root mean square of the first step along the gradient, in gray levels
NO_STEP = "no step along the gradient lowers the loss"


class Search(ABC):
    """A search for the image with the lowest loss. With `bounds`, all pixels stay within 0 … 255."""

    # Names of the attributes that make up a state: arguments of the class, arrays, and plain numbers, lists and dicts.
    rule: str
    settings: tuple[str, ...]
    arrays: tuple[str, ...]
    numbers: tuple[str, ...]
    at_hand = True  # whether its arrays are on this machine

    def __init__(self, function: Function, start: Array, bounds: bool, dtype: Any) -> None:
        self.function, self.bounds, self.shape = function, bounds, start.shape
        self.image = start.reshape(-1).astype(dtype)
        if bounds:
            np.clip(self.image, *PIXEL_RANGE, out=self.image)
        self.best = self.image.copy()
        self.loss = self.best_loss = math.inf
        self.terms: dict[str, float] = {}
        self.iteration = self.evaluations = 0
        self.norm = math.nan  # of the gradient at the image
        self.moved = math.nan  # root mean square of the latest step

    def run(
        self,
        *,
        iterations: int,
        tolerance: float = 0.0,
        callback: Callable[[Record], object] | None = None,
    ) -> Outcome:
        """Iterates until there have been `iterations` in all, or one lowers the loss by less than `tolerance` of it.

        It also ends if no step lowers the loss, if the loss is not finite, on Ctrl-C, if the function raises `Ended` or
        the callback StopIteration, and if memory runs out after the first evaluation. The outcome always has the best
        image so far. Calling `run` again continues the search.
        """
        began = time.perf_counter()

        def report() -> None:
            if callback is None:
                return
            seconds = time.perf_counter() - began
            try:
                callback(
                    Record(self.iteration, self.evaluations, self.loss, self.terms, seconds, self.norm, self.moved)
                )
            except StopIteration:
                raise Ended("callback", "ended by the callback") from None

        try:
            if reason := self._minimise(iterations, tolerance, report):
                stopped, message = "converged", f"converged at iteration {self.iteration}: {reason}"
            else:
                stopped = "iterations"
                message = f"all {iterations} iterations done" if iterations else "no iterations requested"
        except Ended as ended:
            stopped, message = ended.stopped, str(ended)
        except KeyboardInterrupt:
            stopped, message = "interrupted", "interrupted; the picture is the best so far"
        except MemoryError as error:
            if math.isinf(self.best_loss):
                raise
            stopped, message = "out of memory", f"out of memory: {error}; the picture is the best so far"
        # The exception is gone by now, and with it the memory that the interrupted evaluation held.
        image = self.best.reshape(self.shape).copy()
        return Outcome(image, self.best_loss, self.iteration, self.evaluations, stopped, message)

    @abstractmethod
    def _minimise(self, iterations: int, tolerance: float, report: Callable[[], None]) -> str | None:
        """Iterates, calling `report` after each iteration; returns why it converged, or None if all are done."""

    def _no_slope(self) -> str:
        if self.norm == 0 or not self.bounds:
            return "the gradient is zero"
        return "the gradient is zero except where the bounds hold pixels back"

    def state(self) -> State:
        """Everything that `restored` needs to continue the search: arrays (on their device), numbers, lists, words.

        The arrays are the search's own: copy them to keep them beyond its next step.
        """
        state: State = {"rule": self.rule, "shape": list(self.shape)}
        state |= {name: getattr(self, name) for name in (*self.settings, *self.arrays)}
        state |= {name: _copied(getattr(self, name)) for name in self.numbers}
        return state

    def kept(self) -> State:
        """The same for a checkpoint, which may take an array in pieces: it then has a dtype, a shape and `pieces()`."""
        return self.state()

    @classmethod
    def restored(cls, function: Function, state: Mapping[str, Any], **arguments: Any) -> Self:
        """The search with that state. Function and further arguments (`vectors`) must be those of the first search."""
        if state["rule"] != cls.rule:
            raise ValueError(f"the state is one of {state['rule']}, not of {cls.rule}")
        arguments |= {name: state[name] for name in cls.settings}
        search = cls(function, state["image"].reshape(state["shape"]), **arguments)
        for name in cls.arrays:
            ours = getattr(search, name)
            if state[name].dtype != ours.dtype:
                raise ValueError(f"{name} must be of type {ours.dtype}, not {state[name].dtype}")
            fill(ours, state[name])
        for name in cls.numbers:
            ours, value = getattr(search, name), _copied(state[name])
            if isinstance(ours, np.ndarray):
                value = np.array(value, ours.dtype).reshape(ours.shape)
            elif isinstance(ours, float):
                value = _number(value)
            elif type(value) is not type(ours):
                raise ValueError(f"{name} must be of type {type(ours).__name__}, not {type(value).__name__}")
            setattr(search, name, value)
        search.check()
        return search

    def check(self) -> None:
        """Refuse, with a ValueError, a restored state that no search can have been in."""
        if not (0 <= self.iteration <= 1e12 and 0 <= self.evaluations <= 1e12):
            raise ValueError("iterations and evaluations must be counts")
        for value in self.terms.values():
            _number(value)


class DeviceSearch(Search):
    """A search whose `step` moves the image. Between two steps, its state is complete."""

    def __init__(
        self, function: Function, start: Array, bounds: bool, history: int, vectors: MakeVectors | None
    ) -> None:
        super().__init__(function, start, bounds, start.dtype if start.dtype == np.float32 else np.float64)
        self.count = self.image.size  # numbers of the picture; this may be the search for a part of it
        self.trial = np.empty_like(self.image)  # takes memory only when it is written, and the start is gone by then
        self.vectors: Vectors = (vectors or Vectors)(self.image, history)

    @abstractmethod
    def begin(self) -> None:
        """Evaluates the start; raises NotFinite."""

    @abstractmethod
    def step(self) -> str | None:
        """Makes one iteration, or returns why none lowers the loss. Raises NotFinite."""

    def gained_little(self, before: float, tolerance: float) -> bool:
        """Whether the latest step lowered the loss from `before` by no more than `tolerance` of it."""
        return before - self.loss <= tolerance * max(abs(before), abs(self.loss))

    def evaluate(
        self, image: Array, gradient: Array, products: Callable[[], Array]
    ) -> tuple[float, dict[str, float], list[float]]:
        """Puts the gradient at the image into `gradient`; returns the loss, its terms and then the products."""
        loss, d_image, terms = self.function(image.reshape(self.shape))
        self.evaluations += 1
        with np.errstate(invalid="ignore", over="ignore"):  # the products show what is not finite
            gradient[...] = d_image.reshape(-1)
            numbers, fetched = fetch([loss, *terms.values()], products())
        if numbers[0] < self.best_loss and all(map(math.isfinite, fetched)):
            self.best[...] = image
            self.best_loss = numbers[0]
        return numbers[0], dict(zip(terms, numbers[1:], strict=True)), fetched

    def _minimise(self, iterations: int, tolerance: float, report: Callable[[], None]) -> str | None:
        if math.isinf(self.loss):
            self.begin()
        while self.iteration < iterations:
            before = self.loss
            if reason := self.step():
                return reason
            report()
            if self.gained_little(before, tolerance):
                return "the loss hardly falls"
        return None


def first_length(count: int) -> float:
    """The norm of the first step, for so many numbers."""
    return power_of_2(FIRST_STEP * math.sqrt(count))


def power_of_2(number: float) -> float:
    """The nearest one. Units can be changed by it without rounding."""
    return 2.0 ** round(math.log2(number))


def fetch(numbers: Sequence[Scalar], products: Array) -> tuple[list[float], list[float]]:
    """Both on the host, by a single copy from the device. Numbers that are on the host already are left out of it."""
    waiting = [k for k, number in enumerate(numbers) if hasattr(number, "shape") and not isinstance(number, np.generic)]
    parts = [numbers[k].reshape(1).astype(np.float64, copy=False) for k in waiting]
    fetched = np.concatenate([*parts, products.reshape(-1)]).tolist()
    values = dict(enumerate(numbers)) | dict(zip(waiting, fetched, strict=False))
    return [float(value) for value in values.values()], fetched[len(waiting) :]


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"a number was expected, not {type(value).__name__}")
    return float(value)


def _copied(value: Any) -> Any:
    if isinstance(value, np.ndarray):  # a small table on the host
        return value.tolist()
    return value.copy() if isinstance(value, list | dict) else value
