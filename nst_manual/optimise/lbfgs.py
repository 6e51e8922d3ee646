"""L-BFGS on whatever device the image is on: Liu and Nocedal (1989), with everything but a few numbers left there.

From the last m steps s = x′ − x and changes of the gradient y = g′ − g it builds an inverse Hessian H and goes along

    d = −H g        H ← (I − ρ s yᵀ) H (I − ρ y sᵀ) + ρ s sᵀ, ρ = 1/yᵀs, from γ I on, oldest pair first

with γ = yᵀs/yᵀy of the newest pair.
The rows of one matrix B are s₁ y₁ … s_m y_m, and g is one row more. H g is a sum of these rows, and the two-loop
recursion finds the coefficients from their dot products alone, on the host. So one iteration is three passes over the
vectors: d as one product with B; the function; and one product of B with the new s, y and g, in float64, for what is
new in the table of dot products. Taken at every trial, it tells also the slope along d and whether all is finite.

With bounds, pixels at 0 or 255 that the gradient pushes outward are frozen: the recursion sees the other pixels only
(so its table is made anew each time), x + d is projected onto the range, and the line search goes from x to there.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from .line_search import LineSearch, Point
from .records import PIXEL_RANGE, NotFinite, Outcome, Record
from .search import TRIALS, Function, Search, run

LARGEST = 1e10  # step, in units of d


def lbfgs(
    function: Function,
    start: Array,
    *,
    iterations: int,
    history: int = 10,
    tolerance: float = 0.0,
    bounds: bool = False,
    callback: Callable[[Record], object] | None = None,
) -> Outcome:
    """L-BFGS from a start on the device, within 0 … 255 if `bounds`; how it ends: see `run`."""
    search = Lbfgs(function, start, history=history, bounds=bounds)
    return run(search, iterations=iterations, tolerance=tolerance, callback=callback)


class Trial(NamedTuple):
    """What one evaluation told the host."""

    loss: float
    terms: dict[str, float]
    newest: Array  # dot products of the new s, y and g
    table: Array  # those of all rows, then s, y and g, with the last three; with bounds, with all, among free pixels
    finite: bool


class Lbfgs(Search):
    """The search, its ring of pairs, and the table of their dot products."""

    rule = "lbfgs"
    settings = ("history", "bounds")
    vectors = ("image", "gradient", "best", "rows", "free")
    numbers = ("loss", "best_loss", "terms", "iteration", "evaluations", "order", "filled", "table", "reach")

    def __init__(self, function: Function, start: Array, *, history: int = 10, bounds: bool = False) -> None:
        super().__init__(function, start, bounds)
        self.history, size = history, self.image.size
        self.gradient, self.trial_gradient, self.direction = (np.zeros_like(self.image) for _ in range(3))
        self.rows = np.zeros_like(self.image, shape=(2 * history, size))  # s and y of pair k are rows 2k and 2k + 1
        self.free, self.trial_free = (np.zeros_like(self.image, shape=(size * bounds,), dtype=bool) for _ in range(2))
        self.order: list[int] = []  # the pairs in use, oldest first
        self.filled = 0  # pairs with anything in them
        self.table = np.zeros((2 * history + 1, 2 * history + 1))  # of dot products; g is the last row and column
        self.reach = 1.0  # length of a step for which there is no curvature to tell it: SciPy's 1, later the last one's
        most = max(chunks * width for _, chunks, width in self.blocks)
        self.buffer = np.zeros_like(self.image, shape=((2 * history + 3) * most,), dtype=np.float64)

    def begin(self) -> None:
        self.trial[...] = self.image
        trial = self._evaluate()
        if not trial.finite:
            raise NotFinite(f"the loss or its gradient is not finite at the start (loss {trial.loss})")
        self._move(trial, keep_pair=False)

    def step(self) -> str | None:
        while self.table[-1, -1] > 0:
            coefficients = self._coefficients()
            self._aim(coefficients)
            trial = self._search_line()
            if trial is not None:
                self._move(trial, keep_pair=_curved(trial.newest, 0, 1, self.image.dtype))
                self.iteration += 1
                return None
            if not self.order:
                return "no step along the gradient lowers the loss"
            self.order, self.filled = [], 0  # what was remembered misleads: from here as at the start
        return "the gradient is 0"

    def _coefficients(self) -> Array:
        """Those of d = −H g as a sum of all rows and g, by the two-loop recursion on their dot products."""
        table = self.table
        # Among the free pixels alone a pair may show no curvature, or a negative one.
        pairs = [k for k in self.order if _curved(table, 2 * k, 2 * k + 1, self.image.dtype)]
        c = np.zeros(len(table))
        c[-1] = -1.0
        if not pairs:
            c[-1] = -self.reach / _root(table[-1, -1])
            return c
        alpha = {}
        for k in reversed(pairs):
            s, y = 2 * k, 2 * k + 1
            alpha[k] = table[s] @ c / table[s, y]
            c[y] -= alpha[k]
        s, y = 2 * pairs[-1], 2 * pairs[-1] + 1
        c *= table[s, y] / table[y, y]
        for k in pairs:
            s, y = 2 * k, 2 * k + 1
            c[s] += alpha[k] - table[y] @ c / table[s, y]
        return c

    def _aim(self, coefficients: Array) -> None:
        """The direction, from its coefficients; with bounds, as far as the projection of its end."""
        used = 2 * self.filled
        weights = np.asarray(coefficients[:used], dtype=self.image.dtype, like=self.image)
        np.multiply(self.gradient, float(coefficients[-1]), out=self.direction)
        if used:
            np.matmul(weights, self.rows[:used], out=self.trial)
            self.direction += self.trial
        if self.bounds:
            self.direction *= self.free
            self.direction += self.image
            np.clip(self.direction, *PIXEL_RANGE, out=self.direction)
            self.direction -= self.image

    def _search_line(self) -> Trial | None:
        """Evaluates steps along the direction until one is taken; None if none lowers the loss."""
        line: LineSearch | None = None
        t, largest = 1.0, 1.0 if self.bounds else LARGEST
        for left in reversed(range(TRIALS)):
            np.multiply(self.direction, t, out=self.trial)
            self.trial += self.image
            if self.bounds:
                np.clip(self.trial, *PIXEL_RANGE, out=self.trial)  # rounding
            trial = self._evaluate()
            if not trial.finite:
                t, largest = (t / 2, t) if line is None else (line.retreat(t), t)
                continue
            _, s_y, s_g = trial.newest[0]
            if line is None:
                # The slope at 0, where t d = s: sᵀg = sᵀg′ − sᵀy, so that nothing has to be fetched before.
                slope = (s_g - s_y) / t
                if slope >= 0:
                    return None
                line = LineSearch(self.loss, slope, largest)
            point = Point(t, trial.loss, s_g / t)
            if line.accepts(point):
                return trial
            if line.ended:
                return trial if trial.loss < self.loss else None
            t = line.following(point)
            if left == 1:
                t, line.ended = line.best.t, True
            if t == 0:
                return None
        if line is None:
            raise NotFinite(f"the loss or its gradient is not finite after any of {TRIALS} ever smaller steps")
        return None

    def _evaluate(self) -> Trial:
        """At `trial`, with the gradient and the free pixels there left in `trial_gradient` and `trial_free`."""
        loss, terms, fetched = self.evaluate(self.trial, self.trial_gradient, self._products)
        newest = np.array(fetched[:9]).reshape(3, 3)
        table = np.array(fetched[9:]).reshape(2 * self.filled + 3, -1)
        finite = math.isfinite(loss) and bool(np.isfinite(newest).all())  # gᵀg is that if all of g is
        return Trial(loss, terms, newest, table, finite)

    def _products(self) -> Array:
        """The newest's dot products, then all: in one pass over the rows, block by block, in float64."""
        used = 2 * self.filled
        count = used + 3
        image, trial, gradient, trial_gradient = self.image, self.trial, self.gradient, self.trial_gradient
        if self.bounds:
            low, high = PIXEL_RANGE
            self.trial_free[...] = ((trial > low) | (trial_gradient < 0)) & ((trial < high) | (trial_gradient > 0))
        newest = np.zeros_like(self.buffer, shape=(3, 3))
        total = np.zeros_like(self.buffer, shape=(count, count if self.bounds else 3))
        for place, chunks, width in self.blocks:
            block = self.buffer[: chunks * count * width].reshape(chunks, count, width)
            shape = (chunks, width)
            block[:, :used].swapaxes(0, 1)[...] = self.rows[:used, place].reshape(used, chunks, width)
            np.subtract(trial[place].reshape(shape), image[place].reshape(shape), out=block[:, -3], dtype=np.float64)
            block[:, -1] = trial_gradient[place].reshape(shape)
            np.subtract(block[:, -1], gradient[place].reshape(shape), out=block[:, -2])
            new = block[:, -3:]
            if self.bounds:
                newest += np.matmul(new, new.swapaxes(1, 2)).sum(axis=0)
                block *= self.trial_free[place].reshape(chunks, 1, width)
                total += np.matmul(block, block.swapaxes(1, 2)).sum(axis=0)
            else:
                total += np.matmul(block, new.swapaxes(1, 2)).sum(axis=0)
        if not self.bounds:
            newest = total[-3:]
        return np.concatenate([newest.reshape(-1), total.reshape(-1)])

    def _move(self, trial: Trial, keep_pair: bool) -> None:
        """To the trial: its pair takes the oldest one's place in the ring, its dot products theirs in the table."""
        used, g = 2 * self.filled, len(self.table) - 1
        old = list(range(used))
        new, places = [used + 2], [g]
        if keep_pair:
            k = self.filled if self.filled < self.history else self.order[0]
            s, y = 2 * k, 2 * k + 1
            old = [row for row in old if row not in (s, y)]
            new, places = [used, used + 1, used + 2], [s, y, g]
            self.order = [pair for pair in self.order if pair != k]  # not in use until all of it is there
            np.subtract(self.trial, self.image, out=self.rows[s])
            np.subtract(self.trial_gradient, self.gradient, out=self.rows[y])
        table = self.table.copy()
        if self.bounds:
            table[np.ix_(old + places, old + places)] = trial.table[np.ix_(old + new, old + new)]
        else:
            part = trial.table[old + new][:, -len(new) :]
            table[np.ix_(old + places, places)] = part
            table[np.ix_(places, old + places)] = part.T
        self.image, self.trial = self.trial, self.image
        self.gradient, self.trial_gradient = self.trial_gradient, self.gradient
        self.free, self.trial_free = self.trial_free, self.free
        self.table, self.loss, self.terms = table, trial.loss, trial.terms
        if keep_pair:
            self.order, self.filled = [*self.order, k], max(self.filled, k + 1)
            self.reach = _root(trial.newest[0, 0])


def _root(square: float) -> float:
    return math.sqrt(max(square, 0.0))


def _curved(table: Array, s: int, y: int, dtype: Any) -> bool:
    """Whether yᵀs is positive beyond rounding: the test knows no unit, neither of the loss nor of the pixels."""
    return bool(table[s, y] > np.finfo(dtype).eps * _root(table[s, s]) * _root(table[y, y]))
