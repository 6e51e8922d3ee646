"""L-BFGS on whatever device the image is on: Liu and Nocedal (1989), with everything but a few numbers left there.

From the last m steps s = x′ − x and changes of the gradient y = g′ − g it builds an inverse Hessian H and goes along

    d = −H g        H ← (I − ρ s yᵀ) H (I − ρ y sᵀ) + ρ s sᵀ, ρ = 1/yᵀs, from γ I on, oldest pair first

with γ = yᵀs/yᵀy of the newest pair.
The rows of one matrix B are s₁ … s_m y₁ … y_m. H g is a sum of them and of g, and the two-loop recursion finds the
coefficients from dot products alone, on the host. So one iteration is: d, as one product with B; the function; and one
pass over B with the new s, y and g, in float64, for what is new in the table of dot products. As this pass is made at
every trial, it also tells the slope along d and whether all is finite.

With bounds, pixels at 0 or 255 that the gradient pushes outward are frozen: the recursion sees the other pixels only
(so its table is made anew each time), x + d is projected onto the range, and the line search goes from x to there.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..arrays import Array
from .line_search import LineSearch, Point
from .records import PIXEL_RANGE, NotFinite, Outcome, Record
from .search import TRIALS, Function, Kind, Search, run

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
    vectors: Kind | None = None,
) -> Outcome:
    """L-BFGS from a start on the device, within 0 … 255 if `bounds`; how it ends: see `run`."""
    search = Lbfgs(function, start, history=history, bounds=bounds, vectors=vectors)
    return run(search, iterations=iterations, tolerance=tolerance, callback=callback)


class Trial(NamedTuple):
    """What one evaluation told the host."""

    loss: float
    terms: dict[str, float]
    newest: Array  # dot products of the new y, g and s
    table: Array  # of all rows, then y, g and s, with y, g and s; with bounds, with all y and g, among free pixels
    finite: bool


class Lbfgs(Search):
    """The search, its ring of pairs, and the table of their dot products."""

    rule = "lbfgs"
    settings = ("history", "bounds")
    arrays = ("image", "gradient", "best", "rows", "free")
    numbers = ("loss", "best_loss", "terms", "iteration", "evaluations", "order", "lengths", "table", "reach")

    def __init__(
        self,
        function: Function,
        start: Array,
        *,
        history: int = 10,
        bounds: bool = False,
        vectors: Kind | None = None,
    ) -> None:
        super().__init__(function, start, bounds, history, vectors)
        self.history, size = history, self.image.size
        self.gradient, self.trial_gradient, self.direction = (np.zeros_like(self.image) for _ in range(3))
        self.rows = np.zeros_like(self.image, shape=(2 * history, size))  # pair k: s is row k, y is row m + k
        self.free, self.trial_free = (np.zeros_like(self.image, shape=(size * bounds,), dtype=bool) for _ in range(2))
        self.order: list[int] = []  # the pairs in use, oldest first
        self.lengths = [0.0] * history  # ‖s‖ ‖y‖ of each pair
        self.table = np.zeros((2 * history + 1, history + 1))  # of all rows and g with all y and g
        self.reach = 1.0  # length of a step for which there is no curvature to tell it: SciPy's 1, later the last one's
        self.square = self.moved = math.nan  # gᵀg, and ‖s‖ of the last step

    def begin(self) -> None:
        self.trial[...] = self.image
        trial = self._evaluate()
        if not trial.finite:
            raise NotFinite(f"the loss or its gradient is not finite at the start (loss {trial.loss})")
        self._move(trial, keep_pair=False)

    def step(self) -> str | None:
        while self.table[-1, -1] > 0:
            self._aim(self._coefficients())
            trial = self._search_line()
            if trial is not None:
                (y_y, _, _), (_, self.square, _), (s_y, _, s_s) = trial.newest.tolist()
                self.moved = math.sqrt(s_s)
                length = self.moved * math.sqrt(y_y)
                self._move(trial, keep_pair=self._curved(s_y, length))
                self.iteration += 1
                return None
            if not self.order:
                return "no step along the gradient lowers the loss"
            self.order = []  # what was remembered misleads: from here as at the start
        return "the gradient is 0"

    def measures(self) -> tuple[float, float]:
        return math.sqrt(self.square), self.moved

    def _curved(self, s_y: float, length: float) -> bool:
        """Whether yᵀs is positive beyond rounding: a test that knows no unit, neither of the loss nor of the pixels."""
        return bool(s_y > np.finfo(self.image.dtype).eps * length)

    def _coefficients(self) -> Array:
        """Those of d = −H g as a sum of all rows and g, by the two-loop recursion on their dot products."""
        m, table = self.history, self.table
        # Among the free pixels alone a pair may show no curvature, or a negative one.
        pairs = [k for k in self.order if self._curved(table[k, k], self.lengths[k])]
        c = np.zeros(2 * m + 1)
        if not pairs:
            c[-1] = -self.reach / math.sqrt(table[-1, -1])
            return c
        c[-1] = -1.0
        alpha = {}
        for k in reversed(pairs):  # q ← q − α y, α = sᵀq / sᵀy: until here q has no s in it
            alpha[k] = table[k] @ c[m:] / table[k, k]
            c[m + k] -= alpha[k]
        newest = pairs[-1]
        c *= table[newest, newest] / table[m + newest, newest]
        for k in pairs:  # q ← q + (α − yᵀq / sᵀy) s
            c[k] += alpha[k] - c @ table[:, k] / table[k, k]
        return c

    def _aim(self, coefficients: Array) -> None:
        """The direction, from its coefficients; with bounds, as far as the projection of its end."""
        weights = coefficients if self.order else coefficients[-1:]
        free = self.free if self.bounds else None
        image = self.image if self.bounds and self.order else None
        self.vectors.combine(weights, self.rows, self.gradient, free, image, self.direction)

    def _search_line(self) -> Trial | None:
        """Evaluates steps along the direction until one is taken; None if none lowers the loss."""
        line: LineSearch | None = None
        # With bounds, the direction ends at t = 1; only where its length is a guess, the search bends along the range.
        t, largest = 1.0, 1.0 if self.bounds and self.order else LARGEST
        for left in reversed(range(TRIALS)):
            np.multiply(self.direction, t, out=self.trial)
            self.trial += self.image
            if self.bounds:
                np.clip(self.trial, *PIXEL_RANGE, out=self.trial)
            trial = self._evaluate()
            if not trial.finite:
                t, largest = (t / 2, t) if line is None else (line.retreat(t), t)
                continue
            s_y, s_g, _ = trial.newest[-1]
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
        m = self.history
        table = np.array(fetched).reshape(2 * m + 3, -1)
        newest = table[2 * m :, -3:]
        table = table[:, : m + 2] if self.bounds else table
        finite = math.isfinite(loss) and bool(np.isfinite(newest).all())  # gᵀg is that if all of g is
        return Trial(loss, terms, newest, table, finite)

    def _products(self) -> Array:
        images, gradients = (self.image, self.trial), (self.gradient, self.trial_gradient)
        return self.vectors.products(self.rows, images, gradients, self.trial_free if self.bounds else None)

    def _move(self, trial: Trial, keep_pair: bool) -> None:
        """To the trial: its pair takes the oldest one's place in the ring, its dot products theirs in the table."""
        m = self.history
        source = [*range(2 * m), 2 * m + 1]  # rows of the trial's table, for those of ours
        if keep_pair:
            k = len(self.order) if len(self.order) < m else self.order[0]
            if k in self.order:
                self.order = self.order[1:]  # not in use until all of it is there
            source[k], source[m + k] = 2 * m + 2, 2 * m
            np.subtract(self.trial, self.image, out=self.rows[k])
            np.subtract(self.trial_gradient, self.gradient, out=self.rows[m + k])
        if self.bounds:
            new = trial.table[np.ix_(source, [row - m for row in source[m:]])]
        else:
            new = self.table.copy()
            new[:, m] = trial.table[source, 1]
            new[2 * m, :m] = new[m : 2 * m, m]
            if keep_pair:
                new[:, k] = trial.table[source, 0]
                new[m + k] = new[m:, k]
        self.image, self.trial = self.trial, self.image
        self.gradient, self.trial_gradient = self.trial_gradient, self.gradient
        self.free, self.trial_free = self.trial_free, self.free
        self.table, self.loss, self.terms = new, trial.loss, trial.terms
        if keep_pair:
            (y_y, _, _), _, (_, _, s_s) = trial.newest
            self.lengths[k], self.reach = math.sqrt(s_s * y_y), math.sqrt(s_s)
            self.order = [*self.order, k]
