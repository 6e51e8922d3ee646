"""Every engine computes what the reference computes, and its backward steps are the adjoints of its forward steps."""

import numpy as np
import pytest

from nst_manual.engines import ENGINES, open_engine
from nst_manual.engines.cuda.probe import why_no_gpu
from nst_manual.errors import NSTError
from nst_manual.losses import GuidedTarget, content_loss, gram, guided_gram, guided_style_loss, style_loss
from nst_manual.objective import Objective, Style, content_terms, style_terms
from nst_manual.presets import PRESETS
from nst_manual.proof.checks import LAYER_WEIGHTS, MEAN, NARROW, evaluation_error, random_filters, relative_error
from nst_manual.vgg import Network, steps_for

PER_LAYER = 5e-6  # relative error that a float32 engine may make in one step
# Height, width, channels in and out: single pixels, rows, columns; borders of tiles and blocks; odd channels.
SIZES = [
    (1, 1, 3, 64),
    (1, 1, 5, 7),
    (1, 30, 3, 5),
    (1, 9, 8, 16),
    (23, 1, 8, 3),
    (2, 2, 4, 8),
    (3, 5, 16, 24),
    (4, 4, 64, 64),
    (5, 7, 64, 64),
    (8, 12, 64, 128),
    (9, 13, 128, 128),
    (47, 33, 12, 9),
    (66, 70, 3, 64),
    (41, 94, 64, 64),
    (17, 6, 128, 256),
    (6, 31, 256, 256),
    (4, 5, 256, 512),
    (13, 3, 512, 512),
]


@pytest.fixture(params=[*ENGINES, "cuda on the host"])
def engine(request):
    if request.param == "cuda on the host":  # its own host code and kernels, with a stand-in for CuPy
        request.getfixturevalue("cupy_on_host")
        return open_engine("cuda", "float32")
    if request.param == "cuda" and (trouble := why_no_gpu()):
        pytest.skip(f"needs a CUDA GPU: {trouble.reason}")
    return open_engine(request.param, "float32")


def layer(rng, height, width, c_in, c_out):
    """Non-negative features, a kernel that keeps their size, a bias, and a gradient."""
    x = np.maximum(rng.standard_normal((height, width, c_in)), 0).astype(np.float32)
    kernel = (rng.standard_normal((3, 3, c_in, c_out)) * np.sqrt(2 / (9 * c_in))).astype(np.float32)
    bias = rng.standard_normal(c_out).astype(np.float32)
    return x, kernel, bias, rng.standard_normal((height, width, c_out)).astype(np.float32)


def prepared(engine, kernel, bias):
    """The layer in the engine under test and in the reference."""
    exact = open_engine("reference", "float64")
    return engine.prepare(kernel, bias), exact, exact.prepare(kernel, bias)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_convolution_and_its_derivative_are_the_references(engine, rng, size):
    x, kernel, bias, d = layer(rng, *size)
    filters, exact, plain = prepared(engine, kernel, bias)
    y, saved = engine.conv_relu(engine.to_device(x), filters)
    true_y, true_mask = exact.conv_relu(x.astype(np.float64), plain)
    assert y.shape == true_y.shape
    assert relative_error(engine.to_host(y), true_y) < PER_LAYER
    d_x = engine.conv_relu_backward(engine.to_device(d), saved, filters)
    true_d_x = exact.conv_relu_backward(d.astype(np.float64), true_mask, plain)
    assert d_x.shape == x.shape
    assert relative_error(engine.to_host(d_x), true_d_x) < PER_LAYER


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("size", [size for size in SIZES if min(size[:2]) > 1], ids=str)
def test_convolution_joined_with_pooling_is_the_references(engine, rng, size, pooling):
    x, kernel, bias, _ = layer(rng, *size)
    filters, exact, plain = prepared(engine, kernel, bias)
    y, saved = engine.conv_relu_pool(engine.to_device(x), filters, pooling)
    true_y, true_saved = exact.conv_relu_pool(x.astype(np.float64), plain, pooling)
    assert relative_error(engine.to_host(y), true_y) < PER_LAYER
    d = rng.standard_normal(true_y.shape).astype(np.float32)
    d_x = engine.conv_relu_pool_backward(engine.to_device(d), saved, filters)
    true_d_x = exact.conv_relu_pool_backward(d.astype(np.float64), true_saved, plain)
    assert d_x.shape == x.shape
    assert relative_error(engine.to_host(d_x), true_d_x) < PER_LAYER


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("joined", [True, False], ids=["joined", "apart"])
def test_equal_activations_share_or_win_as_in_the_reference(engine, pooling, joined):
    x = np.ones((6, 7, 8), np.float32)  # of four equal ones the first wins; at 0 the ReLU is closed
    kernel, bias = np.zeros((3, 3, 8, 8), np.float32), np.arange(-4, 4).astype(np.float32)
    filters, exact, plain = prepared(engine, kernel, bias)
    d = np.arange(72, dtype=np.float32).reshape(3, 3, 8)
    found, expected = [], []
    for which, with_filters, into in ((engine, filters, found), (exact, plain, expected)):
        if joined:
            y, saved = which.conv_relu_pool(which.to_device(x), with_filters, pooling)
            down = which.conv_relu_pool_backward(which.to_device(d), saved, with_filters)
        else:
            y, mask = which.conv_relu(which.to_device(x), with_filters)
            y, saved = which.pool(y, pooling)
            down = which.conv_relu_backward(which.pool_backward(which.to_device(d), saved), mask, with_filters)
        into += [which.to_host(y), which.to_host(down)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1, 3), (7, 5, 64), (65, 90, 3), (40, 33, 70), (6, 9, 512)], ids=str)
def test_losses_and_gram_matrices_are_the_references(engine, rng, size):
    features, style = (np.maximum(rng.standard_normal(size), 0) for _ in range(2))
    target = gram(style)
    guide = rng.random(size[:2]) / np.sqrt(features[:, :, 0].size)
    on_device, guide_on_device = engine.to_device(features), engine.to_device(guide)
    assert relative_error(engine.to_host(engine.gram(on_device)), gram(features)) < 1e-6
    guided = engine.guided_gram(on_device, guide_on_device)
    assert relative_error(engine.to_host(guided), guided_gram(features, guide)) < 1e-6
    for loss, goal in ((style_loss, target), (content_loss, style), (guided_style_loss, GuidedTarget(target, guide))):
        if isinstance(goal, GuidedTarget):
            goal_on_device = GuidedTarget(engine.to_device(target), guide_on_device)
        else:
            goal_on_device = engine.to_device(goal)
        value, gradient = engine.loss(loss, on_device, None, goal_on_device, 3.5)
        true_value, true_gradient = loss(features, goal)
        assert float(value) == pytest.approx(3.5 * true_value, rel=1e-5)
        assert relative_error(engine.to_host(gradient), 3.5 * true_gradient) < PER_LAYER


@pytest.mark.parametrize("size", [(16, 16), (16, 61), (35, 22), (70, 67)], ids=str)
@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_the_whole_evaluation_is_the_references(engine, rng, pooling, size):
    image, content, style = (rng.uniform(0, 255, (*shape, 3)) for shape in (size, size, (33, 40)))
    found, expected = (
        objective(which, NARROW, pooling, content, style)(image)
        for which in (engine, open_engine("reference", "float64"))
    )
    assert evaluation_error(found, expected) < 1e-5


def test_terms_at_every_kind_of_layer_are_the_references(engine, rng):
    """Content at the first layer, content and style at one layer, and a tapped layer in front of a pooling."""
    image, content, style = (rng.uniform(0, 255, (37, 34, 3)) for _ in range(3))
    evaluations = []
    for which in (engine, open_engine("reference", "float64")):
        network = Network.build(which, random_filters(NARROW, 5), MEAN, NARROW, "max")
        at = {"conv1_1": 0.5, "conv1_2": 1.0, "conv4_1": 2.0}
        terms = content_terms(network, content, at, PRESETS["gatys"]) + style_terms(
            network, [Style(style)], at | {"conv2_2": 1.0}, PRESETS["gatys"]
        )
        evaluations.append(Objective(network, terms, 0.01)(image))
    assert evaluation_error(*evaluations) < 1e-5


def test_terms_before_the_relu_are_the_references(engine, rng):
    image, content, style = (rng.uniform(0, 255, (37, 34, 3)) for _ in range(3))
    alphas, betas = {"pre:conv2_2": 1.0, "conv3_1": 1.0}, {"pre:conv1_1": 1.0, "conv1_1": 1.0, "pre:conv3_2": 2.0}
    evaluations = []
    for which in (engine, open_engine("reference", "float64")):
        steps = steps_for((*alphas, *betas), NARROW)
        network = Network.build(which, random_filters(NARROW, 5), MEAN, steps, "max")
        terms = content_terms(network, content, alphas, PRESETS["gatys"])
        evaluations.append(
            Objective(network, terms + style_terms(network, [Style(style)], betas, PRESETS["gatys"]))(image)
        )
    assert evaluation_error(*evaluations) < 1e-5


def test_regions_are_the_references(engine, rng):
    image, one, two = (
        rng.uniform(0, most, (*shape, 3)) for most, *shape in ((255, 65, 71), (90, 65, 71), (30, 58, 67))
    )
    region = np.zeros((65, 71))
    region[:40, 15:] = 1
    styles = [Style(one, region=region, mask=rng.random((65, 71))), Style(two, region=1 - region), Style(two)]
    evaluations = []
    for which in (engine, open_engine("reference", "float64")):
        network = Network.build(which, random_filters(NARROW, 5), MEAN, NARROW)
        terms = style_terms(network, styles, LAYER_WEIGHTS[1], PRESETS["gatys"])
        evaluations.append(Objective(network, terms)(image))
    assert evaluation_error(*evaluations) < 1e-5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_pixel_that_is_not_finite_makes_the_loss_not_finite(engine, rng, bad):
    image, content, style = (rng.uniform(0, 255, (40, 33, 3)) for _ in range(3))
    function = objective(engine, NARROW, "avg", content, style)
    image[20, 11, 1] = bad
    with np.errstate(all="ignore"):
        evaluation = function(image)
    assert not np.isfinite(evaluation.loss)
    assert not np.isfinite(evaluation.gradient).all()


def test_an_unknown_engine_is_named_in_the_error():
    with pytest.raises(NSTError, match="there is no engine 'tpu'"):
        open_engine("tpu")


def objective(engine, steps, pooling, content, style):
    network = Network.build(engine, random_filters(steps, 5), MEAN, steps, pooling)
    terms = content_terms(network, content, LAYER_WEIGHTS[0], PRESETS["gatys"])
    terms += style_terms(network, [Style(style)], LAYER_WEIGHTS[1], PRESETS["gatys"])
    return Objective(network, terms, 0.01)
