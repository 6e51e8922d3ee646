import numpy as np
import pytest

from nst_manual.roots import by_products, root, transport_map


def matrix(rng, n, smallest):
    """With eigenvalues from `smallest` to 1, times 3."""
    turn, _ = np.linalg.qr(rng.standard_normal((n, n)))
    a = (turn * np.geomspace(smallest, 1, n)) @ turn.T * 3
    return (a + a.T) / 2


def test_a_root_times_itself_is_the_matrix(rng):
    a = matrix(rng, 7, 1e-6)
    np.testing.assert_allclose(root(a) @ root(a), a, atol=1e-14)


def test_rounding_below_zero_counts_as_zero():
    np.testing.assert_array_equal(root(np.diag([4.0, -1e-18])), np.diag([2.0, 0.0]))


@pytest.mark.parametrize("smallest", [1e-2, 1e-6, 1e-10])
def test_the_inverse_root_by_products(rng, smallest):
    a = matrix(rng, 12, smallest)
    inverse, trace = by_products(a)
    assert trace == pytest.approx(np.sqrt(3 * np.geomspace(smallest, 1, 12)).sum(), rel=1e-10)
    np.testing.assert_allclose(root(a) @ inverse, np.eye(12), atol=1e-15 / smallest)  # what rounding of A does to it


@pytest.mark.parametrize("smallest", [1e-2, 1e-5])
def test_the_map_takes_one_covariance_to_the_other(rng, smallest):
    a, b = matrix(rng, 9, smallest), matrix(rng, 9, smallest)
    found, trace = transport_map(root(b), a, 0.0)
    np.testing.assert_allclose(found, found.T, rtol=1e-12)
    np.testing.assert_allclose(found @ a @ found, b, atol=1e-13 / smallest)
    assert trace == pytest.approx(np.trace(root(root(b) @ a @ root(b))), rel=1e-10)
    inverse, by_iteration = by_products(root(b) @ a @ root(b))
    np.testing.assert_allclose(root(b) @ inverse @ root(b), found, rtol=1e-12 / smallest**2, atol=1e-12 / smallest**2)
    assert trace == pytest.approx(by_iteration, rel=1e-10)


def test_by_products_what_lies_below_its_range_is_left_small(rng):
    """An eigenvalue that rounding has made 0 must not make the others wrong."""
    a = np.diag([0.0, 1.0, 4.0])
    inverse, trace = by_products(a)
    np.testing.assert_allclose(np.diagonal(inverse)[1:], [1, 0.5], rtol=1e-10)
    assert trace == pytest.approx(3, rel=1e-6)
    assert np.isfinite(inverse).all()


def test_eigenvalues_below_the_least_are_raised_to_it():
    found, trace = transport_map(np.eye(2), np.diag([-1e-9, 1.0]), 0.1)
    np.testing.assert_allclose(found, np.diag([10.0, 1.0]))
    assert trace == pytest.approx(1.1)
