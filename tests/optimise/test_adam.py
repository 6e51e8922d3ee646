"""Adam follows its formulas, and ends when ten iterations gain little."""

import numpy as np
from functions import bowl, rosenbrock

from nst_manual.optimise import Adam


def test_it_follows_its_formulas(rng):
    start = rng.uniform(-1, 1, (3, 4, 3))
    x, m, v = start.copy(), 0.0, 0.0
    unit = np.sqrt(np.mean(rosenbrock(x)[1] ** 2))
    for k in range(1, 16):
        g = rosenbrock(x)[1] / unit
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - 0.02 * (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
    search = Adam(rosenbrock, start, learning_rate=0.02)
    search.run(iterations=15)
    np.testing.assert_allclose(search.image.reshape(x.shape), x, rtol=1e-9)


def test_it_ends_when_ten_iterations_gain_little(start, centre):
    outcome = Adam(bowl(centre), start, learning_rate=5.0).run(iterations=5000, tolerance=1e-3)
    assert outcome.stopped == "converged"
    assert outcome.iterations < 2000
