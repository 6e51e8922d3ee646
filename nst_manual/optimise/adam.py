"""Adam (Kingma and Ba, 2014) on whatever device the image is on.

    m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²        x ← x − α m̂ / (√v̂ + ε)

m̂ = m / (1 − β₁ᵏ) and v̂ = v / (1 − β₂ᵏ) undo that both began as 0. α is in units of a pixel's 0 … 255: no pixel moves
much more than that in one iteration. g is in units of the first gradient's size, so that the loss may have any. With
`averaging` ā > 0, x̄ ← ā x̄ + (1 − ā) x, corrected likewise, is a calmer picture than the last x: it is evaluated at the
end, and is the outcome if its loss is the lowest.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from ..arrays import Array
from .records import PIXEL_RANGE, NotFinite, Outcome, Record
from .search import TRIALS, Function, Kind, Search, fetch, run

FIRST_MOMENT, SECOND_MOMENT = 0.9, 0.999  # β₁, β₂
EPSILON = 1e-8
PATIENCE = 10  # iterations over which a gain is judged, as single ones go up and down


def adam(
    function: Function,
    start: Array,
    *,
    iterations: int,
    learning_rate: float = 10.0,
    averaging: float = 0.0,
    tolerance: float = 0.0,
    bounds: bool = False,
    callback: Callable[[Record], object] | None = None,
    vectors: Kind | None = None,
) -> Outcome:
    """Adam from a start on the device, within 0 … 255 if `bounds`; how it ends: see `run`.

    It has gained too little when ten iterations together lower the best loss by less than `tolerance` of it.
    """
    search = Adam(function, start, learning_rate=learning_rate, averaging=averaging, bounds=bounds, vectors=vectors)
    return run(search, iterations=iterations, tolerance=tolerance, callback=callback)


class Adam(Search):
    """The search and its moments, which have the gradient at the present image in them already."""

    rule = "adam"
    settings = ("learning_rate", "averaging", "bounds")
    arrays = ("image", "best", "first", "second", "average")
    numbers = ("loss", "best_loss", "terms", "iteration", "evaluations", "unit", "latest")

    def __init__(
        self,
        function: Function,
        start: Array,
        *,
        learning_rate: float = 10.0,
        averaging: float = 0.0,
        bounds: bool = False,
        vectors: Kind | None = None,
    ) -> None:
        super().__init__(function, start, bounds, 0, vectors)
        self.learning_rate, self.averaging = learning_rate, averaging
        self.gradient, self.first, self.second = (np.zeros_like(self.image) for _ in range(3))
        self.average = np.zeros_like(self.image, shape=(self.image.size * (averaging > 0),))
        self.unit = 0.0  # root of the mean square of the first gradient
        self.square = self.moved = math.nan  # gᵀg, and ‖x′ − x‖² of the last step
        self.latest: list[float] = []  # best losses after the latest iterations

    def begin(self) -> None:
        loss, self.terms, square, _ = self._evaluate(self.image)
        if not (math.isfinite(loss) and math.isfinite(square)):
            raise NotFinite(f"the loss or its gradient is not finite at the start (loss {loss})")
        self.loss = loss
        self.unit = math.sqrt(square / self.image.size)
        self._remember()

    def step(self) -> str | None:
        if self.unit == 0:
            return "the gradient is 0"
        k = self.iteration + 1
        trial = self.trial
        np.sqrt(self.second, out=trial)
        trial *= 1 / math.sqrt(1 - SECOND_MOMENT**k)
        trial += EPSILON
        np.divide(self.first, trial, out=trial)
        trial *= -self.learning_rate / (1 - FIRST_MOMENT**k)
        trial += self.image
        if self.bounds:
            np.clip(trial, *PIXEL_RANGE, out=trial)
        for _ in range(TRIALS):
            loss, terms, square, moved = self._evaluate(trial)
            if math.isfinite(loss) and math.isfinite(square):
                break
            trial += self.image  # half way back
            trial *= 0.5
        else:
            raise NotFinite(f"the loss or its gradient is not finite after any of {TRIALS} ever smaller steps")
        self.image, self.trial = self.trial, self.image
        self.loss, self.terms, self.iteration = loss, terms, k
        self.square, self.moved = square, moved
        self.latest = [*self.latest[-PATIENCE:], self.best_loss]
        self._remember()
        if self.averaging:
            np.multiply(self.image, 1 - self.averaging, out=self.trial)
            self.average *= self.averaging
            self.average += self.trial
        return None

    def measures(self) -> tuple[float, float]:
        return math.sqrt(self.square), math.sqrt(self.moved)

    def gained_little(self, before: float, tolerance: float) -> bool:
        if tolerance == 0 or len(self.latest) <= PATIENCE:
            return False
        return self.latest[0] - self.latest[-1] <= tolerance * abs(self.latest[0])

    def result(self) -> tuple[Array, float, int]:
        if not (self.averaging and self.iteration):
            return super().result()
        average = self.average * (1 / (1 - self.averaging**self.iteration))
        loss, _, _ = self.function(average.reshape(self.shape))
        (number,), _ = fetch([loss], np.zeros_like(average, shape=(0,), dtype=np.float64))
        better = number < self.best_loss
        return average if better else self.best, number if better else self.best_loss, self.evaluations + 1

    def _evaluate(self, image: Array) -> tuple[float, dict[str, float], float, float]:
        """Loss, terms, gᵀg and the square of the way to there, with the gradient left in `gradient`."""
        squares = partial(self.vectors.squares, self.gradient, self.image, image)
        loss, terms, (square, moved) = self.evaluate(image, self.gradient, squares)
        return loss, terms, square, moved

    def _remember(self) -> None:
        """The gradient, into both moments."""
        if self.unit > 0:
            self.gradient *= 1 / self.unit
        self.first *= FIRST_MOMENT
        self.second *= SECOND_MOMENT
        np.square(self.gradient, out=self.trial)
        self.trial *= 1 - SECOND_MOMENT
        self.second += self.trial
        self.gradient *= 1 - FIRST_MOMENT
        self.first += self.gradient
