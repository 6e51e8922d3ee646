"""Every engine computes what the reference computes, and its backward steps are the adjoints of its forward steps."""

from functools import partial

import numpy as np
import pytest
from operations import layer_of

from nst_manual.engines import ENGINES, open_engine
from nst_manual.engines.cuda.paths import PATHS
from nst_manual.engines.cuda.probe import why_no_gpu
from nst_manual.errors import NSTError
from nst_manual.losses import (
    content_loss,
    laplacian,
    laplacian_loss,
    moments,
    moments_backward,
    tv_loss,
    tv_nine_point_loss,
)
from nst_manual.objective import ImageTerm, Objective, Style, content_terms, style_terms
from nst_manual.presets import PRESETS, Formula
from nst_manual.proof.checks import LAYER_WEIGHTS, MEAN, NARROW, random_filters
from nst_manual.proof.differences import evaluation_error, relative_error
from nst_manual.vgg import PADDINGS, POOLINGS, Network, padded, steps_to

TV = ImageTerm("tv", 0.01, tv_loss)
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
AT_MAPS_BORDERS = [(2, 2, 4, 8), (9, 13, 128, 128), (47, 33, 12, 9), (17, 6, 128, 256), (66, 70, 3, 64)]


@pytest.fixture(params=[*ENGINES, *(f"{path} on the host" for path in PATHS)])
def engine(request):
    path = request.param.removesuffix(" on the host")
    if path in PATHS:  # its own host code and kernels, with a stand-in for CuPy
        return PATHS[path]("float32", request.getfixturevalue("cupy_on_host"))
    if request.param == "cuda":
        request.getfixturevalue("kept_verdicts")
    if request.param == "cuda" and (trouble := why_no_gpu()):
        pytest.skip(f"needs a CUDA GPU: {trouble.reason}")
    return open_engine(request.param, "float32")


def layer(rng, height, width, c_in, c_out):
    """Non-negative features, a kernel that keeps their size, a bias, and a gradient."""
    x = np.maximum(rng.standard_normal((height, width, c_in)), 0).astype(np.float32)
    kernel = (rng.standard_normal((3, 3, c_in, c_out)) * np.sqrt(2 / (9 * c_in))).astype(np.float32)
    bias = rng.standard_normal(c_out).astype(np.float32)
    return x, kernel, bias, rng.standard_normal((height, width, c_out)).astype(np.float32)


def compared(engine, rng, size, **how):
    """Relative errors up and down of one layer, against the reference in float64."""
    x, kernel, bias, _ = layer(rng, *size)
    found, exact = (
        layer_of(engine, kernel, bias, **how),
        layer_of(open_engine("reference", "float64"), kernel, bias, **how),
    )
    y, saved = found.up(engine.to_device(x))
    true_y, true_saved = exact.up(x.astype(np.float64))
    d = rng.standard_normal(true_y.shape)
    d_x, true_d_x = found.down(engine.to_device(d), saved), exact.down(d, true_saved)
    assert (y.shape, d_x.shape) == (true_y.shape, x.shape)
    return relative_error(engine.to_host(y), true_y), relative_error(engine.to_host(d_x), true_d_x)


@pytest.mark.parametrize("relu", [True, False], ids=["with ReLU", "alone"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_convolution_and_its_derivative_are_the_references(engine, rng, size, relu):
    assert max(compared(engine, rng, size, relu=relu)) < PER_LAYER


@pytest.mark.parametrize("relu", [True, False], ids=["with ReLU", "alone"])
@pytest.mark.parametrize("size", [size for size in SIZES if size[2] == 3], ids=str)
def test_the_repeated_edge_of_the_image_is_the_references(engine, rng, size, relu):
    assert max(compared(engine, rng, size, relu=relu, padding="replicate")) < PER_LAYER


@pytest.mark.parametrize(
    ("pooling", "size"),
    [
        *((pooling, size) for pooling in ("avg", "max") for size in SIZES if min(size[:2]) > 1),
        *((pooling, size) for pooling in ("avg-scaled", "l2") for size in AT_MAPS_BORDERS),
    ],
    ids=str,
)
def test_convolution_joined_with_pooling_is_the_references(engine, rng, size, pooling):
    assert max(compared(engine, rng, size, pooling=pooling)) < PER_LAYER


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("apart", [False, True], ids=["joined", "apart"])
def test_equal_activations_share_or_win_as_in_the_reference(engine, pooling, apart):
    x = np.ones((6, 7, 8), np.float32)  # of four equal ones the first wins; at 0 the ReLU is closed
    kernel, bias = np.zeros((3, 3, 8, 8), np.float32), np.arange(-4, 4).astype(np.float32)
    d = np.arange(72, dtype=np.float32).reshape(3, 3, 8)
    results = []
    for which in (engine, open_engine("reference", "float64")):
        operation = layer_of(which, kernel, bias, pooling=pooling, apart=apart)
        y, saved = operation.up(which.to_device(x))
        results.append((which.to_host(y), which.to_host(operation.down(which.to_device(d), saved))))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True], ids=["whole", "region"])
@pytest.mark.parametrize("size", [(1, 1, 3), (7, 5, 64), (65, 90, 3), (40, 33, 70), (6, 9, 512)], ids=str)
def test_moments_and_what_is_pulled_back_are_the_references(engine, rng, size, weighted):
    features, n = np.maximum(rng.standard_normal(size), 0), size[2]
    weights = rng.random(size[:2]) if weighted else None
    if weighted:
        weights /= weights.sum()
    a, b = rng.standard_normal(n), rng.standard_normal((n, n))
    b += b.T
    there, t = engine.to_device(features), None if weights is None else engine.to_device(weights)
    for found, expected in zip(engine.moments(there, t), moments(features, weights), strict=True):
        assert found.dtype == np.float64
        assert relative_error(engine.to_host(found), expected) < 1e-6
    for mean in (None, a):
        d_mean = None if mean is None else engine.to_device(mean, "float64")
        for d in (None, rng.standard_normal(size)):
            given = None if d is None else engine.to_device(d)
            found = engine.pull_back(given, there, None, t, d_mean, engine.to_device(b, "float64"))
            expected = moments_backward(features, weights, mean, b) + (0 if d is None else d)
            assert relative_error(engine.to_host(found), expected) < PER_LAYER


@pytest.mark.parametrize("size", [(1, 1, 3), (7, 5, 64), (65, 90, 3), (40, 33, 70)], ids=str)
def test_the_content_term_is_the_references(engine, rng, size):
    features, target = (np.maximum(rng.standard_normal(size), 0) for _ in range(2))
    height, width, _ = size
    for place in (None, np.s_[0:1, 0:1], np.s_[height // 3 : height, width // 2 : width]):
        own = place or np.s_[0:height, 0:width]
        value, gradient = engine.difference(engine.to_device(features), engine.to_device(target[own]), 3.5, place)
        true_value, inner = content_loss(features[own], target[own])
        assert float(value) == pytest.approx(3.5 * true_value, rel=1e-5)
        for d in (None, rng.standard_normal(size)):
            expected = np.zeros(size) if d is None else d.copy()
            expected[own] += 3.5 * inner
            found = engine.join(None if d is None else engine.to_device(d), gradient)
            assert relative_error(engine.to_host(found), expected) < PER_LAYER


@pytest.mark.parametrize("parts", [(0, 1, 2, 3), (2, 0, 3, 1), (2, 3, 1, 0), (0, 2, 1, 3)], ids=str)
@pytest.mark.parametrize("padding", PADDINGS)
def test_gradients_join_in_any_order_at_the_first_layer_too(engine, rng, parts, padding):
    """Two of them may wait there for features that are computed again."""
    x, kernel, bias, d = layer(rng, 9, 14, 3, 8)
    exact = layer_of(open_engine("reference", "float64"), kernel, bias, padding=padding)
    features, mask = exact.up(x.astype(np.float64))
    a, b, weights = rng.standard_normal(8), rng.standard_normal((2, 8, 8)), rng.random((9, 14))
    b += b.swapaxes(1, 2)
    more = rng.standard_normal(d.shape)
    expected = exact.down(
        d + more + moments_backward(features, None, a, b[0]) + moments_backward(features, weights, a, b[1]), mask
    )
    first = layer_of(engine, kernel, bias, padding=padding)
    y, saved = first.up(engine.to_device(x))
    mean, second = engine.to_device(a, "float64"), engine.to_device(b, "float64")
    given = (
        engine.to_device(d),
        engine.to_device(more),
        engine.pull_back(None, y, saved, None, mean, second[0]),
        engine.pull_back(None, y, saved, engine.to_device(weights), mean, second[1]),
    )
    total = None
    for number in parts:
        total = engine.join(total, given[number])
    assert relative_error(engine.to_host(first.down(total, saved)), expected) < PER_LAYER


@pytest.mark.parametrize(
    ("pooling", "size"),
    [
        *((pooling, size) for pooling in ("avg", "max") for size in ((16, 16), (16, 61), (35, 22), (70, 67))),
        *((pooling, (35, 22)) for pooling in ("avg-scaled", "l2")),
    ],
    ids=str,
)
def test_the_whole_evaluation_is_the_references(engine, rng, pooling, size):
    """L2 pooling divides by small windows' lengths: even plain float32 errs by more there."""
    image, content, style = (rng.uniform(0, 255, (*shape, 3)) for shape in (size, size, (33, 40)))
    found, expected = (
        objective(which, NARROW, pooling, content, style)(image)
        for which in (engine, open_engine("reference", "float64"))
    )
    assert evaluation_error(found, expected) < (2e-5 if pooling == "l2" else 1e-5)


def test_the_whole_evaluation_with_the_images_edge_repeated_is_the_references(engine, rng):
    image, content, style = (rng.uniform(0, 255, (*shape, 3)) for shape in ((35, 22), (35, 22), (33, 40)))
    steps = padded(NARROW, "replicate")
    found, expected, otherwise = (
        objective(which, steps, "avg", content, style)(image)
        for which, steps in ((engine, steps), (open_engine("reference", "float64"), steps), (engine, NARROW))
    )
    assert evaluation_error(found, expected) < 1e-5
    assert evaluation_error(otherwise, expected) > 1e-3


@pytest.mark.parametrize("size", [(16, 16), (35, 22)], ids=str)
def test_terms_of_the_pixels_are_the_references(engine, rng, size):
    image, content = rng.uniform(0, 255, (2, *size, 3))
    evaluations = []
    for which in (engine, open_engine("reference", "float64")):
        network = Network.build(which, random_filters(NARROW, 5), MEAN, NARROW, taps=())
        edges = partial(laplacian_loss, target=laplacian(which.to_device(content)))
        terms = [ImageTerm("laplacian", 2.0, edges), ImageTerm("tv", 1e4, tv_nine_point_loss)]
        evaluations.append(Objective(network, terms)(image))
    assert evaluation_error(*evaluations) < 1e-5


def test_terms_at_every_kind_of_layer_are_the_references(engine, rng):
    """Content at the first layer, content and style at one layer, and a tapped layer in front of a pooling."""
    image, content, style = (rng.uniform(0, 255, (37, 34, 3)) for _ in range(3))
    evaluations = []
    for which in (engine, open_engine("reference", "float64")):
        at = {"conv1_1": 0.5, "conv1_2": 1.0, "conv4_1": 2.0}
        network = Network.build(which, random_filters(NARROW, 5), MEAN, NARROW, "max", {*at, "conv2_2"})
        terms = content_terms(network, content, at, Formula(PRESETS["gatys"]))
        terms += style_terms(
            network, [Style(style)], at | {"conv2_2": 1.0}, Formula(PRESETS["gatys"]), content.shape[:2]
        )
        evaluations.append(Objective(network, [*terms, TV])(image))
    assert evaluation_error(*evaluations) < 1e-5


def test_terms_before_the_relu_are_the_references(engine, rng):
    image, content, style = (rng.uniform(0, 255, (37, 34, 3)) for _ in range(3))
    alphas, betas = {"pre:conv2_2": 1.0, "conv3_1": 1.0}, {"pre:conv1_1": 1.0, "conv1_1": 1.0, "pre:conv3_2": 2.0}
    evaluations = []
    for which in (engine, open_engine("reference", "float64")):
        taps = {*alphas, *betas}
        network = Network.build(which, random_filters(NARROW, 5), MEAN, steps_to(taps, NARROW), "max", taps)
        terms = content_terms(network, content, alphas, Formula(PRESETS["gatys"]))
        terms += style_terms(network, [Style(style)], betas, Formula(PRESETS["gatys"]), content.shape[:2])
        evaluations.append(Objective(network, terms)(image))
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
        network = Network.build(which, random_filters(NARROW, 5), MEAN, NARROW, taps=LAYER_WEIGHTS[1])
        terms = style_terms(network, styles, LAYER_WEIGHTS[1], Formula(PRESETS["gatys"]), image.shape[:2])
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
    taps = {*LAYER_WEIGHTS[0], *LAYER_WEIGHTS[1]}
    network = Network.build(engine, random_filters(steps, 5), MEAN, steps, pooling, taps)
    terms = content_terms(network, content, LAYER_WEIGHTS[0], Formula(PRESETS["gatys"]))
    terms += style_terms(network, [Style(style)], LAYER_WEIGHTS[1], Formula(PRESETS["gatys"]), content.shape[:2])
    return Objective(network, [*terms, TV])
