"""Adam (Kingma and Ba, 2014) on the device that holds the image.

    m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²        x ← x − α m̂ / (√v̂ + ε)

m̂ = m / (1 − β₁ᵏ) and v̂ = v / (1 − β₂ᵏ) correct for m and v having started at 0. α is in units of a pixel's 0 … 255 and
is roughly the most that a pixel moves in one iteration. g is divided by the first gradient's root mean square, so that
the scale of the loss does not matter.
"""

import math
from functools import partial

import numpy as np

from ..arrays import Array
from .records import PIXEL_RANGE, NotFinite
from .search import TRIALS, DeviceSearch, Function, MakeVectors

FIRST_MOMENT, SECOND_MOMENT = 0.9, 0.999  # β₁, β₂
EPSILON = 1e-8
PATIENCE = 10  # iterations over which progress is judged, because the loss goes up and down


class Adam(DeviceSearch):
    """Adam with the step size α = `learning_rate`.

    With a tolerance, it ends when ten iterations together lower the best loss by less than that fraction.
    """

    rule = "adam"
    settings = ("learning_rate", "bounds")
    arrays = ("image", "best", "first", "second")
    numbers = ("loss", "best_loss", "terms", "iteration", "evaluations", "unit", "latest")

    def __init__(
        self,
        function: Function,
        start: Array,
        *,
        learning_rate: float = 10.0,
        bounds: bool = False,
        vectors: MakeVectors | None = None,
    ) -> None:
        super().__init__(function, start, bounds, 0, vectors)
        self.learning_rate = learning_rate
        self.gradient = np.empty_like(self.image)
        self.first, self.second = np.zeros_like(self.image), np.zeros_like(self.image)
        self.unit = 0.0  # root mean square of the first gradient
        self.latest: list[float] = []  # the best loss before each of the latest iterations

    def check(self) -> None:
        super().check()
        if not np.isfinite([*self.latest, self.unit]).all():
            raise ValueError("the losses and gradients before must be finite")

    def begin(self) -> None:
        loss, self.terms, square, _ = self._evaluate(self.image)
        if not (math.isfinite(loss) and math.isfinite(square)):
            raise NotFinite(f"at the start (loss {loss})")
        self.loss, self.norm = loss, math.sqrt(square)
        self.unit = math.sqrt(square / self.count)
        self._update_moments()

    def step(self) -> str | None:
        if self.unit == 0:
            return self._no_slope()
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
            trial += self.image  # half the step
            trial *= 0.5
        else:
            raise NotFinite(f"at any of {TRIALS} ever smaller steps")
        self.image, self.trial = self.trial, self.image
        self.loss, self.terms, self.iteration = loss, terms, k
        self.norm, self.moved = math.sqrt(square), math.sqrt(moved / self.count)
        self.latest = [*self.latest[-PATIENCE:], self.best_loss]
        self._update_moments()
        return None

    def gained_little(self, before: float, tolerance: float) -> bool:
        if tolerance == 0 or len(self.latest) <= PATIENCE:
            return False
        return self.latest[0] - self.latest[-1] <= tolerance * abs(self.latest[0])

    def _evaluate(self, image: Array) -> tuple[float, dict[str, float], float, float]:
        """Puts the gradient into `gradient`; returns the loss, its terms, gᵀg, and ‖step‖² from the present image."""
        squares = partial(self.vectors.squares, self.gradient, self.image, image)
        loss, terms, (square, moved) = self.evaluate(image, self.gradient, squares)
        return loss, terms, square, moved

    def _update_moments(self) -> None:
        if self.unit > 0:
            self.gradient *= 1 / self.unit
        self.first *= FIRST_MOMENT
        self.second *= SECOND_MOMENT
        np.square(self.gradient, out=self.trial)
        self.trial *= 1 - SECOND_MOMENT
        self.second += self.trial
        self.gradient *= 1 - FIRST_MOMENT
        self.first += self.gradient
