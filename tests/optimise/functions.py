"""Functions with known minima, image → (loss, gradient, terms)."""

import numpy as np


def bowl(centre):
    """½ ‖x − centre‖², steeper in the first row; the gradient is in float32, as the engines give it."""

    def function(x):
        scale = np.ones_like(x)
        scale[0] = 30
        difference = x - centre
        loss = float((scale * difference**2).sum() / 2)
        return loss, (scale * difference).astype(np.float32), {"bowl": loss}

    return function


def rosenbrock(x):
    """Σ 100 (b − a²)² + (1 − a)² over neighbours a, b: a bent valley."""
    a, b = x.reshape(-1)[:-1], x.reshape(-1)[1:]
    rise, rest = b - a**2, 1 - a
    gradient = np.zeros(x.size, x.dtype)
    gradient[1:] += 200 * rise
    gradient[:-1] -= 400 * rise * a + 2 * rest
    return float((100 * rise**2).sum() + (rest**2).sum()), gradient.reshape(x.shape), {}
