"""Random starts and minima, and convex functions, image → (loss, gradient, terms)."""

import numpy as np
import pytest


@pytest.fixture
def centre(rng):
    return rng.uniform(-100, 355, (4, 5, 3))


@pytest.fixture
def start(rng):
    return rng.uniform(0, 255, (4, 5, 3))


@pytest.fixture
def quadratic(rng):
    """½ (x − c)ᵀ A (x − c), A with eigenvalues 1 … 1000, c partly outside 0 … 255."""
    turn = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    a = (turn * np.logspace(0, 3, 60)) @ turn.T
    centre = rng.uniform(-200, 400, 60)

    def function(x):
        difference = x.reshape(-1) - centre
        pull = a @ difference
        return float(difference @ pull / 2), pull.reshape(x.shape).astype(x.dtype), {}

    return function


@pytest.fixture
def softened(rng):
    """Σ log 2 cosh (A (x − c)): convex, nearly straight far out, curved near its minimum."""
    a = rng.standard_normal((60, 60)) / 10
    centre = rng.uniform(-200, 400, 60)

    def function(x):
        r = a @ (x.reshape(-1) - centre)
        return float(np.logaddexp(r, -r).sum()), (a.T @ np.tanh(r)).reshape(x.shape), {}

    return function
