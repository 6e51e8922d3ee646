"""Each layer against its plain definition, and each derivative against two proofs."""

import numpy as np
import pytest

from nst_manual import layers
from nst_manual.proof.checks import check_layer, layer_pairs
from nst_manual.proof.differences import dot_test
from nst_manual.proof.report import LIMITS

SIZES = [(1, 1), (1, 2), (2, 1), (1, 7), (3, 3), (4, 6), (5, 8)]
PAIRS = [pair.name for pair in layer_pairs(np.random.default_rng(0))]


def test_conv_is_the_sum_in_its_docstring(rng):
    x, kernel, bias = rng.random((4, 5, 2)), rng.random((3, 3, 2, 3)), rng.random(3)
    y = np.empty((4, 5, 3))
    for p, q, o in np.ndindex(y.shape):
        y[p, q, o] = bias[o] + sum(
            x[p + i - 1, q + j - 1, c] * kernel[i, j, c, o]
            for i, j, c in np.ndindex(3, 3, 2)
            if 0 <= p + i - 1 < 4 and 0 <= q + j - 1 < 5
        )
    np.testing.assert_allclose(layers.conv(x, kernel, bias), y, rtol=1e-14)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("conv", ["conv", "conv_replicate"])
def test_conv_backward_is_the_adjoint(rng, conv, size):
    kernel = rng.standard_normal((3, 3, 2, 5))
    error = dot_test(
        lambda x: getattr(layers, conv)(x, kernel, np.zeros(5)),
        lambda d_y: getattr(layers, f"{conv}_backward")(d_y, kernel),
        rng.standard_normal((*size, 2)),
        rng.standard_normal((*size, 5)),
    )
    assert error < LIMITS["adjoint"]


def test_replicate_repeats_the_edge_and_its_adjoint_folds_it_back():
    x = np.arange(6.0).reshape(2, 3, 1)
    repeated = [[0, 0, 1, 2, 2], [0, 0, 1, 2, 2], [3, 3, 4, 5, 5], [3, 3, 4, 5, 5]]
    np.testing.assert_array_equal(layers.replicate(x)[:, :, 0], repeated)
    np.testing.assert_array_equal(layers.replicate_backward(np.ones((4, 5, 1)))[:, :, 0], [[4, 2, 4], [4, 2, 4]])
    np.testing.assert_array_equal(layers.replicate_backward(np.ones((3, 3, 1))), [[[9]]])


def test_a_flat_picture_has_no_border_where_its_edge_is_repeated(rng):
    x, kernel, bias = np.full((5, 4, 3), 7.0), rng.random((3, 3, 3, 2)), rng.random(2)
    y = layers.conv_replicate(x, kernel, bias)
    np.testing.assert_allclose(y, np.broadcast_to(y[2, 2], y.shape), rtol=1e-14)
    np.testing.assert_allclose(y[1:-1, 1:-1], layers.conv(x, kernel, bias)[1:-1, 1:-1], rtol=1e-14)


@pytest.mark.parametrize("wrong", ["not turned", "turned once", "true convolution"])
def test_a_wrong_conv_backward_fails_the_dot_test(rng, wrong):
    kernel = rng.standard_normal((3, 3, 4, 4))
    kernels = {
        "not turned": kernel.transpose(0, 1, 3, 2),
        "turned once": kernel[::-1].transpose(0, 1, 3, 2),
        "true convolution": kernel[::-1, ::-1],
    }
    error = dot_test(
        lambda x: layers.conv(x, kernel, np.zeros(4)),
        lambda d_y: layers.conv(d_y, kernels[wrong], np.zeros(4)),
        rng.standard_normal((6, 5, 4)),
        rng.standard_normal((6, 5, 4)),
    )
    assert error > 1e-3


@pytest.mark.parametrize("size", [(2, 2), (2, 3), (3, 2), (5, 5), (6, 8)])
def test_average_pool_backward_is_the_adjoint(rng, size):
    x = rng.standard_normal((*size, 3))
    d_y = rng.standard_normal((size[0] // 2, size[1] // 2, 3))
    assert dot_test(layers.average_pool, lambda d: layers.average_pool_backward(d, x.shape), x, d_y) < 1e-13


@pytest.mark.parametrize("name", PAIRS)
def test_every_layer_passes_finite_differences_at_odd_and_unequal_sizes(rng, name):
    pair = next(pair for pair in layer_pairs(rng) if pair.name == name)
    sizes = [(2, 2), (2, 3), (3, 2), (5, 7)] if "pooling" in name else SIZES
    assert check_layer(pair, rng, sizes).passed


def test_relu_is_closed_at_exactly_zero():
    y, mask = layers.relu(np.array([-1.0, 0.0, 2.0]))
    np.testing.assert_array_equal(y, [0, 0, 2])
    np.testing.assert_array_equal(layers.relu_backward(np.ones(3), mask), [0, 0, 1])


def test_pooling_drops_an_odd_last_row_and_column():
    x = np.arange(15.0).reshape(3, 5, 1)
    np.testing.assert_array_equal(layers.average_pool(x)[:, :, 0], [[3, 5]])
    np.testing.assert_array_equal(layers.average_pool(x, 2)[:, :, 0], [[6, 10]])
    np.testing.assert_array_equal(layers.max_pool(x)[0][:, :, 0], [[6, 8]])
    y = layers.l2_pool(x)
    np.testing.assert_allclose(y[:, :, 0], [[0.78 * 62**0.5, 0.78 * 126**0.5]])
    assert not layers.l2_pool_backward(np.ones_like(y), x, y)[2:, 4:].any()


def test_a_window_of_zeros_stops_the_gradient_of_l2_pooling_and_one_number_has_0_78_of_it():
    x = np.zeros((2, 4, 1))
    x[1, 2] = 3
    y = layers.l2_pool(x)
    d_x = layers.l2_pool_backward(np.ones((1, 2, 1)), x, y)
    np.testing.assert_allclose(d_x[:, :, 0], [[0, 0, 0, 0], [0, 0, 0.78, 0]])


def test_max_pool_gives_the_first_of_equal_pixels_the_whole_gradient():
    y, winner = layers.max_pool(np.ones((2, 2, 1)))
    d_x = layers.max_pool_backward(np.full((1, 1, 1), 5.0), winner, (2, 2, 1))
    assert y.item() == 1
    np.testing.assert_array_equal(d_x[:, :, 0], [[5, 0], [0, 0]])


def test_layers_keep_their_precision(rng):
    x = rng.random((4, 4, 3), dtype=np.float32)
    kernel, bias = rng.random((3, 3, 3, 2), dtype=np.float32), np.zeros(2, np.float32)
    y, mask = layers.relu(layers.conv(x, kernel, bias))
    pooled, winner = layers.max_pool(y)
    results = (y, pooled, layers.average_pool(y), layers.conv_backward(layers.relu_backward(y, mask), kernel))
    norms = layers.l2_pool(y)
    results += (layers.average_pool(y, 2.0), norms, layers.l2_pool_backward(norms, y, norms), layers.replicate(x))
    results += (layers.conv_replicate_backward(y, kernel), layers.conv_replicate(x, kernel, bias))
    results += (layers.max_pool_backward(pooled, winner, y.shape), layers.average_pool_backward(pooled, y.shape))
    assert {result.dtype for result in results} == {np.dtype(np.float32)}
