"""L-BFGS (Liu and Nocedal, 1989) on the device that holds the image; only a few numbers come to the host.

From the last m steps s = x′ − x and changes of the gradient y = g′ − g it estimates the inverse Hessian H and moves by

    d = −H g        H ← (I − ρ s yᵀ) H (I − ρ y sᵀ) + ρ s sᵀ, ρ = 1/yᵀs, oldest pair first, starting with γ I

where γ = yᵀs/yᵀy of the newest pair. The matrix B has the rows s₁ … s_m y₁ … y_m. d is a combination of these rows and
g, and the two-loop recursion computes its coefficients on the host from a table of dot products. So each iteration
is: d, as one product with B; the function; and one pass over B, in float64, for the dot products with the new s, y and
g. Every trial makes this pass, because it also gives the slope along d and shows whether everything is finite.

With bounds, pixels at 0 or 255 whose gradient points outward are frozen: the recursion uses the other pixels only (so
each trial computes the whole table), x + d is projected onto the range, and the line search goes from x to that point.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from .history import Rows
from .line_search import LineSearch, Point
from .records import PIXEL_RANGE, NotFinite
from .search import NO_STEP, TRIALS, DeviceSearch, Function, MakeVectors, first_length

LARGEST = 1e10  # most that a step may be, in units of d


class Trial(NamedTuple):
    """What the host learns from one evaluation."""

    loss: float
    terms: dict[str, float]
    newest: Array  # dot products of y, g′ and s with each other
    table: Array  # all rows, then y, g′ and s, times y, g′ and s; with bounds, times all y and g′ over the free pixels
    finite: bool


class Lbfgs(DeviceSearch):
    """L-BFGS with a ring of `history` pairs (s, y) and the table of their dot products.

    With `history_bits` = 16, the pairs take half the memory of float32; with a `folder`, they are in a file there.
    """

    rule = "lbfgs"
    settings = ("history", "bounds", "history_bits")
    arrays = ("image", "gradient", "best", "rows", "scales", "free")
    numbers = ("loss", "best_loss", "terms", "iteration", "evaluations", "order", "lengths", "table", "reach")

    def __init__(
        self,
        function: Function,
        start: Array,
        *,
        history: int = 10,
        history_bits: int = 32,
        bounds: bool = False,
        vectors: MakeVectors | None = None,
        folder: Path | None = None,
    ) -> None:
        # Of the dot products: all rows and g, times all y and g. The first that is too large for memory, if any is.
        self.table = np.zeros((2 * history + 1, history + 1))
        spared = history_bits == 16 or folder is not None
        super().__init__(function, start, bounds, history, None if spared else vectors)
        self.history, self.history_bits, size = history, history_bits, self.image.size
        self.gradient = np.zeros_like(self.image)  # the first evaluation compares with it
        self.trial_gradient, self.direction = np.empty_like(self.image), np.empty_like(self.image)
        self.rows: Any  # pair k: s is row k, y is row m + k
        if spared:
            self.rows = Rows(
                self.image, 2 * history, [place for place, _, _ in self.vectors.blocks], history_bits, folder
            )
        else:
            self.rows = np.zeros_like(self.image, shape=(2 * history, size))
        self.scales = self.rows.scales if spared else np.zeros_like(self.image, shape=(0,))
        self.free, self.trial_free = (np.zeros_like(self.image, shape=(size * bounds,), dtype=bool) for _ in range(2))
        self.order: list[int] = []  # the pairs in use, oldest first
        self.lengths = [0.0] * history  # ‖s‖ ‖y‖ of each pair
        self.reach = 0.0  # length of the latest step, and of one along the gradient; 0 before the first

    def check(self) -> None:
        super().check()
        right = all(type(k) is int and 0 <= k < self.history for k in self.order)
        if not right or len(set(self.order)) < len(self.order) or len(self.lengths) != self.history:
            raise ValueError("the remembered pairs are not those of this history")
        if not np.isfinite([*self.lengths, self.reach]).all() or not np.isfinite(self.table).all():
            raise ValueError("the remembered numbers must be finite")

    def begin(self) -> None:
        self.trial[...] = self.image
        trial = self._evaluate()
        if not trial.finite:
            raise NotFinite(f"at the start (loss {trial.loss})")
        self._move(trial)

    def step(self) -> str | None:
        while self.table[-1, -1] > 0:
            with np.errstate(all="ignore"):  # the evaluation shows what is not finite
                self._aim(self._coefficients())
            trial = self._search_line()
            if trial is not None:
                self._move(trial)
                self.iteration += 1
                return None
            if not self.order:
                return NO_STEP
            self.order = []  # the remembered pairs mislead: try the gradient alone
        return self._no_slope()

    def _curved(self, s_y: float, length: float) -> bool:
        """Whether yᵀs is positive beyond rounding errors, whatever the units; `length` is ‖s‖ ‖y‖."""
        return bool(s_y > float(np.finfo(self.image.dtype).eps) * length)

    def _coefficients(self) -> Array:
        """The coefficients of all rows and g in d = −H g, by the two-loop recursion on the dot products."""
        m, table = self.history, self.table
        # With bounds, a pair may have no curvature, or a negative one, over the free pixels.
        pairs = [k for k in self.order if self._curved(table[k, k], self.lengths[k])]
        c = np.zeros(2 * m + 1)
        if not pairs:
            c[-1] = -(self.reach or first_length(self.count)) / math.sqrt(table[-1, -1])
            return c
        c[-1] = -1.0
        alpha = {}
        for k in reversed(pairs):  # q ← q − α y, α = sᵀq / sᵀy: q contains no s yet
            alpha[k] = table[k] @ c[m:] / table[k, k]
            c[m + k] -= alpha[k]
        newest = pairs[-1]
        c *= table[newest, newest] / table[m + newest, newest]
        for k in pairs:  # q ← q + (α − yᵀq / sᵀy) s
            c[k] += alpha[k] - c @ table[:, k] / table[k, k]
        return c

    def _aim(self, coefficients: Array) -> None:
        """Computes the direction; with bounds, it ends where x + d is projected onto the range."""
        weights = coefficients if self.order else coefficients[-1:]
        free = self.free if self.bounds else None
        image = self.image if self.bounds and self.order else None
        self.vectors.combine(weights, self.rows, self.gradient, free, image, self.direction)

    def _search_line(self) -> Trial | None:
        """Evaluates steps along the direction until one is acceptable; None if none lowers the loss."""
        line: LineSearch | None = None
        # With bounds, the direction ends at t = 1. Without pairs its length is a guess: longer steps are projected.
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
                # t d = s, so the slope at 0 is sᵀg / t = (sᵀg′ − sᵀy) / t: no separate fetch from the device.
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
            raise NotFinite(f"at any of {TRIALS} ever smaller steps")
        return None

    def _evaluate(self) -> Trial:
        """Evaluates `trial`, and puts its gradient and free pixels into `trial_gradient` and `trial_free`."""
        loss, terms, fetched = self.evaluate(self.trial, self.trial_gradient, self._products)
        m = self.history
        table = np.array(fetched).reshape(2 * m + 3, -1)
        newest = table[2 * m :, -3:]
        table = table[:, : m + 2] if self.bounds else table
        finite = math.isfinite(loss) and bool(np.isfinite(newest).all())  # gᵀg is finite if all of g is
        return Trial(loss, terms, newest, table, finite)

    def _products(self) -> Array:
        images, gradients = (self.image, self.trial), (self.gradient, self.trial_gradient)
        return self.vectors.products(self.rows, images, gradients, self.trial_free if self.bounds else None)

    def _keep(self, row: int, one: Array, other: Array) -> None:
        if isinstance(self.rows, Rows):
            self.rows.put(row, one, other)
        else:
            np.subtract(one, other, out=self.rows[row])

    def _move(self, trial: Trial) -> None:
        """Moves to the trial. A pair with curvature replaces the oldest one, in the ring and in the table."""
        m = self.history
        (y_y, _, _), (_, g_g, _), (s_y, _, s_s) = trial.newest.tolist()
        length = math.sqrt(s_s) * math.sqrt(y_y)
        keep_pair = self._curved(s_y, length)
        source = [*range(2 * m), 2 * m + 1]  # the row of the trial's table for each row of ours
        if keep_pair:
            k = len(self.order) if len(self.order) < m else self.order[0]
            if k in self.order:
                self.order = self.order[1:]  # not used until it is complete
            source[k], source[m + k] = 2 * m + 2, 2 * m
            self._keep(k, self.trial, self.image)
            self._keep(m + k, self.trial_gradient, self.gradient)
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
        self.norm, self.moved = math.sqrt(g_g), math.sqrt(s_s / self.count)
        if keep_pair:
            self.lengths[k], self.reach = length, math.sqrt(s_s)
            self.order = [*self.order, k]
