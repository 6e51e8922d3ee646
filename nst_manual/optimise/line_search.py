"""How far to go along a direction: a step t that satisfies the strong Wolfe conditions, by Moré and Thuente (1994).

With φ(t) = L(x + t d), a step is taken if it lowers the loss enough and leaves little of the slope:

    φ(t) ≤ φ(0) + c₁ t φ′(0)        |φ′(t)| ≤ c₂ |φ′(0)|        c₁ = 10⁻³, c₂ = 0.9 as in L-BFGS-B

The second one makes yᵀs = t (φ′(t) − φ′(0)) positive: what L-BFGS lives on. The search keeps the best step so far and
another one, tries minimisers of cubics and parabolas through what is known of both, and goes further out until a
minimum lies between the two, which then close in on it: if not fast enough, by halves.
"""

import math
from typing import NamedTuple

SUFFICIENT, CURVATURE = 1e-3, 0.9  # c₁, c₂
NARROW = 0.1  # a bracket this small, relative to its far end, is not worth more evaluations
NEAREST, FARTHEST = 1.1, 4.0  # how far beyond a step the next one goes, in units of the last advance
SHRINK = 0.66  # a bracket must shrink to this in two steps, or is halved


class Point(NamedTuple):
    """φ and φ′ at a step t."""

    t: float
    loss: float
    slope: float

    def tilted(self, slope: float) -> "Point":
        """The same of φ(t) − slope · t."""
        return Point(self.t, self.loss - slope * self.t, self.slope - slope)


class LineSearch:
    """Asks for one step after the other, the first of them 1: `accepts` judges a step, `following` gives the next."""

    def __init__(self, loss: float, slope: float, largest: float) -> None:
        self.start = self.best = self.other = Point(0.0, loss, slope)
        self.largest = largest
        self.low, self.high = 0.0, 1 + FARTHEST
        self.bracketed, self.descended = False, False
        self.width, self.width_before = largest, 2 * largest
        self.ended = False  # the step asked for is the last: no other would be better by much

    def accepts(self, trial: Point) -> bool:
        enough = trial.loss <= self._bound(trial.t)
        if enough and trial.t >= self.largest and trial.slope <= SUFFICIENT * self.start.slope:
            return True  # further down would be out of bounds
        return enough and abs(trial.slope) <= -CURVATURE * self.start.slope

    def following(self, trial: Point) -> float:
        """The step to try after one that is not accepted; 0 if there is none."""
        if trial.loss <= self._bound(trial.t) and trial.slope >= 0:
            self.descended = True
        if self.bracketed and not self.low < trial.t < self.high:
            return self._end()
        if not self.descended and self._bound(trial.t) < trial.loss <= self.best.loss:
            # Until the first condition can be met, what counts is how far φ falls below its line.
            tilt = SUFFICIENT * self.start.slope
            t = self._choose(self.best.tilted(tilt), self.other.tilted(tilt), trial.tilted(tilt))
            self.best, self.other = self.best.tilted(-tilt), self.other.tilted(-tilt)
        else:
            t = self._choose(self.best, self.other, trial)
        if self.bracketed:
            distance = self.other.t - self.best.t
            if abs(distance) >= SHRINK * self.width_before:
                t = self.best.t + distance / 2
            self.width_before, self.width = self.width, abs(distance)
            self.low, self.high = sorted((self.best.t, self.other.t))
        else:
            self.low = t + NEAREST * (t - self.best.t)
            self.high = t + FARTHEST * (t - self.best.t)
        t = min(max(t, 0.0), self.largest)
        if self.bracketed and (not self.low < t < self.high or self.high - self.low <= NARROW * self.high):
            return self._end()
        return t

    def retreat(self, t: float) -> float:
        """The step to try after one where the loss is not a finite number: half way back."""
        self.largest = self.high = t
        return (self.best.t + t) / 2

    def _end(self) -> float:
        self.ended = True
        return self.best.t

    def _bound(self, t: float) -> float:
        return self.start.loss + SUFFICIENT * t * self.start.slope

    def _choose(self, best: Point, other: Point, trial: Point) -> float:
        """The next step, from the four cases of the paper's section 4; `best`, `other` and the bracket move on."""
        turned = trial.slope * best.slope < 0
        end = self.high if trial.t > best.t else self.low
        if trial.loss > best.loss:  # a minimum between: the cubic's, or half way from it to the parabola's
            t, parabola = cubic(best, trial), quadratic(best, trial)
            if abs(t - best.t) >= abs(parabola - best.t):
                t += (parabola - t) / 2
            self.bracketed = True
        elif turned:  # a minimum between: of cubic and secant the one farther from here
            t = max(cubic(trial, best), secant(trial, best), key=lambda step: abs(step - trial.t))
            self.bracketed = True
        elif abs(trial.slope) < abs(best.slope):  # still downhill, but flatter
            t = cubic(trial, best)
            if not (t - trial.t) * (trial.t - best.t) > 0:
                t = end
            pick = min if self.bracketed else max
            t = pick(t, secant(trial, best), key=lambda step: abs(step - trial.t))
            if self.bracketed:
                limit = trial.t + SHRINK * (other.t - trial.t)
                t = min(t, limit) if trial.t > best.t else max(t, limit)
            else:
                t = min(max(t, self.low), self.high)
        else:  # downhill, and steeper
            t = cubic(trial, other) if self.bracketed else end
        if trial.loss > best.loss:
            other = trial
        else:
            best, other = trial, best if turned else other
        self.best, self.other = best, other
        return t


def cubic(a: Point, b: Point) -> float:
    """Where the cubic through both, with their slopes, has its minimum; half way between them if it has none."""
    theta = 3 * (a.loss - b.loss) / (b.t - a.t) + a.slope + b.slope
    scale = max(abs(theta), abs(a.slope), abs(b.slope))
    if scale == 0:
        return (a.t + b.t) / 2
    root = scale * math.sqrt(max(0.0, (theta / scale) ** 2 - (a.slope / scale) * (b.slope / scale)))
    gamma = math.copysign(root, b.t - a.t)
    below = 2 * gamma - a.slope + b.slope
    return a.t + (b.t - a.t) * ((gamma - a.slope + theta) / below if below else 0.5)


def quadratic(a: Point, b: Point) -> float:
    """Where the parabola through both, with a's slope, has its minimum."""
    return a.t + (b.t - a.t) * a.slope / (2 * ((a.loss - b.loss) / (b.t - a.t) + a.slope))


def secant(a: Point, b: Point) -> float:
    """Where the line through both slopes is 0."""
    return a.t + (b.t - a.t) * a.slope / (a.slope - b.slope)
