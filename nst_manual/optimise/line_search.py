"""Line search by Moré and Thuente (1994): how far to go along a direction.

With φ(t) = L(x + t d), a step t is accepted if it meets the strong Wolfe conditions: it lowers the loss enough, and the
slope there is flat enough:

    φ(t) ≤ φ(0) + c₁ t φ′(0)        |φ′(t)| ≤ c₂ |φ′(0)|        c₁ = 10⁻³, c₂ = 0.9 as in L-BFGS-B

The second condition makes yᵀs = t (φ′(t) − φ′(0)) positive, which L-BFGS needs. The search keeps the best step so far
and another one. It tries the minimisers of cubics and parabolas through the two, going further out until they enclose
a minimum; then it narrows this bracket, by bisection where the interpolation is too slow.
"""

import math
from typing import NamedTuple

SUFFICIENT, CURVATURE = 1e-3, 0.9  # c₁, c₂
NARROW = 0.1  # a bracket narrower than this, relative to its far end, is not worth more evaluations
NEAREST, FARTHEST = 1.1, 4.0  # least and most extrapolation, in units of the last advance
SHRINK = 0.66  # a bracket that has not shrunk to this fraction in two steps is halved


class Point(NamedTuple):
    """φ and φ′ at a step t."""

    t: float
    loss: float
    slope: float

    def tilted(self, slope: float) -> "Point":
        """The same point on φ(t) − slope · t."""
        return Point(self.t, self.loss - slope * self.t, self.slope - slope)


class LineSearch:
    """`accepts` judges a step and `following` gives the next one to try. The first step is 1."""

    def __init__(self, loss: float, slope: float, largest: float) -> None:
        self.start = self.best = self.other = Point(0.0, loss, slope)
        self.largest = largest
        self.low, self.high = 0.0, 1 + FARTHEST
        self.bracketed, self.descended = False, False
        self.width, self.width_before = largest, 2 * largest
        self.ended = False  # whether the next step is the last, because no other would be much better

    def accepts(self, trial: Point) -> bool:
        enough = trial.loss <= self._bound(trial.t)
        if enough and trial.t >= self.largest and trial.slope <= SUFFICIENT * self.start.slope:
            return True  # still downhill, but at the bounds
        return enough and abs(trial.slope) <= -CURVATURE * self.start.slope

    def following(self, trial: Point) -> float:
        """The step to try after a rejected one; 0 if there is none."""
        if trial.loss <= self._bound(trial.t) and trial.slope >= 0:
            self.descended = True
        if self.bracketed and not self.low < trial.t < self.high:
            return self._end()
        if not self.descended and self._bound(trial.t) < trial.loss <= self.best.loss:
            # Until a step meets the first condition, the search minimises φ minus that condition's line.
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
        """The step to try after one where the loss is not finite: half way back."""
        self.largest = self.high = t
        return (self.best.t + t) / 2

    def _end(self) -> float:
        self.ended = True
        return self.best.t

    def _bound(self, t: float) -> float:
        return self.start.loss + SUFFICIENT * t * self.start.slope

    def _choose(self, best: Point, other: Point, trial: Point) -> float:
        """The next step by the four cases of the paper's section 4; also updates `best`, `other` and the bracket."""
        turned = trial.slope * best.slope < 0
        end = self.high if trial.t > best.t else self.low
        if trial.loss > best.loss:  # a minimum lies between: the cubic's, or half way from it to the parabola's
            t, parabola = cubic(best, trial), quadratic(best, trial)
            if abs(t - best.t) >= abs(parabola - best.t):
                t += (parabola - t) / 2
            self.bracketed = True
        elif turned:  # a minimum lies between: the cubic's or the secant's, whichever is farther away
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
    """The minimiser of the cubic with both points' losses and slopes; the midpoint if there is none."""
    theta = 3 * (a.loss - b.loss) / (b.t - a.t) + a.slope + b.slope
    scale = max(abs(theta), abs(a.slope), abs(b.slope))
    if scale == 0:
        return (a.t + b.t) / 2
    root = scale * math.sqrt(max(0.0, (theta / scale) ** 2 - (a.slope / scale) * (b.slope / scale)))
    gamma = math.copysign(root, b.t - a.t)
    below = 2 * gamma - a.slope + b.slope
    return a.t + (b.t - a.t) * ((gamma - a.slope + theta) / below if below else 0.5)


def quadratic(a: Point, b: Point) -> float:
    """The minimiser of the parabola through both points with a's slope."""
    return a.t + (b.t - a.t) * a.slope / (2 * ((a.loss - b.loss) / (b.t - a.t) + a.slope))


def secant(a: Point, b: Point) -> float:
    """The zero of the line through both slopes."""
    return a.t + (b.t - a.t) * a.slope / (a.slope - b.slope)
