"""The CUDA engine on a stand-in for its device, with its kernels compiled for the CPU; then on a GPU, where there is
one. That every step in float32 is the reference's: test_engines.py."""

import importlib
import json
import logging
import pickle
import re
import shutil
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import device_stand_in
import numpy as np
import pytest
from device_stand_in import KERNELS, Card, Cupy, Graph, OnDevice
from operations import layer_of

from nst_manual import layers
from nst_manual.engines import open_engine
from nst_manual.engines.cuda import layers as cuda_layers
from nst_manual.engines.cuda import paths as cuda_paths
from nst_manual.engines.cuda import probe as cuda_probe
from nst_manual.engines.cuda.device import TILES, Device, source
from nst_manual.engines.cuda.graph import Repeated
from nst_manual.engines.cuda.layers import FORMS, Winograd, best_tile, convolve, encoded
from nst_manual.engines.cuda.probe import NoGPU, Trouble, why_no_gpu
from nst_manual.engines.cuda.vectors import DeviceVectors
from nst_manual.engines.cuda.verdicts import Verdict
from nst_manual.engines.reference import ReferenceEngine
from nst_manual.errors import NSTError
from nst_manual.losses import (
    STYLE_LOSSES,
    Moments,
    content_loss,
    gram_loss,
    laplacian_loss,
    moments,
    style_loss,
    transport_loss,
    tv_loss,
    tv_nine_point_loss,
)
from nst_manual.objective import ImageTerm, Objective, Style, blended, content_terms, style_terms
from nst_manual.optimise import Adam, Lbfgs, Lbfgsb, Vectors
from nst_manual.presets import PRESETS, Formula
from nst_manual.proof.checks import LAYER_WEIGHTS, MEAN, NARROW, ROUGH, against_reference, random_filters
from nst_manual.proof.differences import evaluation_error, relative_error
from nst_manual.proof.report import ENGINE_LIMITS
from nst_manual.vgg import POOLINGS, Network, Pool, steps_to, vgg_table

# What one step may err by where no ReLU and no maximum falls to another side: up, and down.
STEP_LIMITS = {"tf32": (1e-3, 1e-3), "float16": (1e-3, 5e-3)}
TOOLS = Path(__file__).parents[2] / "tools"
SMALL = steps_to("conv2_1", NARROW)  # conv1_1 … conv2_1, a pooling among them
AT_SMALL = ({"conv2_1": 1.0}, {"conv1_1": 1.0, "conv2_1": 1.0})
DEEP = {"steps": NARROW, "layers": LAYER_WEIGHTS}


def unpacked(mask, c):
    return np.unpackbits(mask, axis=2, bitorder="little")[:, :, :c].astype(bool)


def layer(rng, height, width, c_in, c_out):
    x = np.maximum(rng.standard_normal((height, width, c_in)), 0).astype(np.float32)
    kernel = (rng.standard_normal((3, 3, c_in, c_out)) * np.sqrt(2 / (9 * c_in))).astype(np.float32)
    return x, kernel, rng.standard_normal(c_out).astype(np.float32)


def objective(engine, size, *, steps=SMALL, pooling="avg", tv=0.01, layers=AT_SMALL, loss="gram"):
    rng = np.random.default_rng(3)
    content, style = rng.uniform(0, 255, (*size, 3)), rng.uniform(0, 255, (33, 40, 3))
    taps = {*layers[0], *layers[1]}
    network = Network.build(engine, random_filters(steps, 5), MEAN, steps, pooling, taps)
    formula = Formula(PRESETS["gatys"])
    terms = content_terms(network, content, layers[0], formula)
    terms += style_terms(network, [Style(style)], layers[1], formula, size, STYLE_LOSSES[loss])
    return Objective(network, [*terms, ImageTerm("tv", tv, tv_loss)])


def assert_repeated_gives_the_same_bits(function, images):
    engine, repeated = function.network.engine, function.repeated()
    for image in map(engine.to_device, images):
        (loss, gradient, terms), (true_loss, true_gradient, true_terms) = repeated(image), function.on_device(image)
        np.testing.assert_array_equal(engine.to_host(gradient), engine.to_host(true_gradient))
        assert float(loss) == float(true_loss)
        assert {name: float(value) for name, value in terms.items()} == {n: float(v) for n, v in true_terms.items()}


# ---- The operations, in TF32 and float16


@pytest.mark.parametrize("precision", STEP_LIMITS)
@pytest.mark.parametrize("relu", [True, False], ids=["with ReLU", "alone"])
@pytest.mark.parametrize(
    "size", [(1, 1, 3, 64), (9, 21, 3, 5), (1, 1, 64, 64), (1, 17, 5, 7), (9, 18, 64, 128)], ids=str
)
def test_each_layer_is_the_references_but_for_rounding(cupy_on_host, rng, precision, size, relu):
    x, kernel, bias = layer(rng, *size)
    engine, exact = (
        layer_of(open_engine(*which), kernel, bias, relu=relu)
        for which in (("cuda", precision), ("reference", "float64"))
    )
    up, down = STEP_LIMITS[precision]
    y, saved = engine.up(OnDevice(x))
    host = open_engine("cuda", precision).to_host
    assert relative_error(host(y), exact.up(x)[0]) < up
    d = rng.standard_normal(y.shape).astype(np.float32)
    _, plain = exact.up(x)
    if relu:  # ReLUs whose input is 0 but for rounding may differ: the reference takes over the engine's own mask
        mask = unpacked((saved.mask if size[2] == 3 else saved).array, size[3])
        np.testing.assert_array_equal(mask, host(y) > 0)
        plain = [None, mask]
    assert relative_error(host(engine.down(OnDevice(d), saved)), exact.down(d, plain)) < down


@pytest.mark.parametrize("precision", STEP_LIMITS)
@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("size", [(2, 3, 64, 64), (19, 17, 5, 64)], ids=str)
def test_convolution_and_pooling_at_once_keep_what_the_way_down_needs(cupy_on_host, rng, precision, pooling, size):
    x, kernel, bias = layer(rng, *size)
    host = open_engine("cuda", precision).to_host
    engine = layer_of(open_engine("cuda", precision), kernel, bias, pooling=pooling)
    exact = layer_of(open_engine("reference", "float64"), kernel, bias)
    up, down = STEP_LIMITS[precision]
    y, saved = engine.up(OnDevice(x))
    pooled = layers.average_pool(exact.up(x)[0]) if pooling == "avg" else layers.max_pool(exact.up(x)[0])[0]
    assert relative_error(host(y), pooled) < up
    d = rng.standard_normal(y.shape).astype(np.float32)
    spread = np.zeros((size[0], size[1], size[3]))
    height, width = size[0] // 2 * 2, size[1] // 2 * 2
    spread[:height, :width] = d.repeat(2, 0).repeat(2, 1) * (0.25 if pooling == "avg" else 1)
    mask = unpacked(saved.array, size[3])
    if pooling == "max":
        windows = mask[:height, :width].reshape(height // 2, 2, width // 2, 2, -1).sum((1, 3))
        np.testing.assert_array_equal(windows, host(y) > 0)
    assert relative_error(host(engine.down(OnDevice(d), saved)), exact.down(spread, [None, mask])) < down


@pytest.mark.parametrize("precision", STEP_LIMITS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_alone_is_the_references_but_for_rounding(cupy_on_host, rng, precision, pooling):
    engine, exact = open_engine("cuda", precision), open_engine("reference", "float64")
    x = np.maximum(rng.standard_normal((7, 9, 70)), 0).astype(engine.form.up_type)  # so that the same numbers win
    d = rng.standard_normal((3, 4, 70))
    y, saved = engine.pool(OnDevice(x), pooling)
    (pool,) = exact.operations((Pool("pool1"),), {}, (), pooling)
    true_y, true_saved = pool.up(x.astype(np.float64))
    up, down = STEP_LIMITS[precision]
    assert relative_error(engine.to_host(y), true_y) < up
    d_x = engine.to_host(engine.pool_backward(OnDevice(d.astype(np.float32)), saved))
    assert relative_error(d_x, pool.down(d, true_saved)) < down


@pytest.mark.parametrize("precision", STEP_LIMITS)
def test_the_images_repeated_edge_is_the_references_but_for_rounding(cupy_on_host, rng, precision):
    x, kernel, bias = layer(rng, 9, 41, 3, 5)
    engine, exact = (
        layer_of(open_engine(*which), kernel, bias, relu=False, padding="replicate")
        for which in (("cuda", precision), ("reference", "float64"))
    )
    host, d = open_engine("cuda", precision).to_host, rng.standard_normal((9, 41, 5)).astype(np.float32)
    (y, saved), (true_y, _), (up, down) = engine.up(OnDevice(x)), exact.up(x), STEP_LIMITS[precision]
    assert relative_error(host(y), true_y) < up
    assert relative_error(host(engine.down(OnDevice(d), saved)), exact.down(d, None)) < down


@pytest.mark.parametrize("precision", STEP_LIMITS)
@pytest.mark.parametrize("weighted", [False, True], ids=["whole", "region"])
@pytest.mark.parametrize("size", [(1, 1, 3), (7, 5, 64), (40, 33, 70), (6, 9, 192)], ids=str)
def test_losses_and_moments_are_the_references_but_for_rounding(cupy_on_host, rng, precision, size, weighted):
    engine, features = open_engine("cuda", precision), np.maximum(rng.standard_normal(size), 0)
    up, down = STEP_LIMITS[precision]
    other, weights = np.maximum(rng.standard_normal(size) + 1, 0), rng.random(size[:2])
    weights = weights / weights.sum() if weighted else None
    there, t = engine.to_device(features), None if weights is None else engine.to_device(weights)
    found, expected = engine.moments(there, t), moments(features, weights)
    for one, two in zip(found, expected, strict=True):
        assert relative_error(engine.to_host(one), two) < up
    target = moments(other)
    value, d_mean, d_second = gram_loss(found, Moments(*(engine.to_device(array, "float64") for array in target)))
    true_value, true_gradient = style_loss(features, target, weights)
    assert float(value) == pytest.approx(true_value, rel=1e-2)
    gradient = engine.pull_back(None, there, None, t, d_mean, d_second)
    assert relative_error(engine.to_host(gradient), true_gradient) < 3 * down
    height, width, _ = size
    for place in (None, np.s_[height // 3 : height, width // 2 : width]):
        own = place or np.s_[0:height, 0:width]
        value, gradient = engine.difference(there, engine.to_device(other[own]), np.float64(3.5), place)
        true_value, inner = content_loss(features[own], other[own])
        expected = np.zeros(size)
        expected[own] = 3.5 * inner
        assert float(value) == pytest.approx(3.5 * true_value, rel=1e-2)
        assert relative_error(engine.to_host(gradient), expected) < 3 * down


@pytest.fixture
def no_solver(monkeypatch):
    """A GPU without cuSOLVER: it has no eigenvalues, and the host has."""
    eigh = np.linalg.eigh

    def missing(array):
        if isinstance(array, OnDevice):
            raise ImportError("libcusolver.so.12: cannot open shared object file")
        return eigh(array)

    monkeypatch.setattr(np.linalg, "eigh", missing)


@pytest.mark.parametrize("path", cuda_paths.PATHS)
def test_moments_of_a_picture_in_parts_or_from_elsewhere_are_compared_without_a_solver(
    cupy_on_host, rng, no_solver, path
):
    engine = cuda_paths.PATHS[path]("float32", cupy_on_host)
    found, target = (engine.moments(engine.to_device(np.abs(rng.standard_normal((9, 9, 5)))), None) for _ in range(2))
    value, *gradient = transport_loss(found, target)
    halves = found.times(0.5).plus(found.times(0.5))
    for same in (halves, found.like(*found), engine.known_moments(*map(engine.to_host, found))):
        again, *others = transport_loss(same, blended([(0.5, target), (0.5, target)]).with_floor(float(target.floor)))
        assert float(again) == pytest.approx(float(value), rel=1e-6)
        for one, other in zip(gradient, others, strict=True):
            np.testing.assert_allclose(engine.to_host(other), engine.to_host(one), atol=1e-6)


@pytest.mark.parametrize("path", cuda_paths.PATHS)
def test_a_few_positions_that_vary_far_more_than_the_style_does_have_a_transport(cupy_on_host, rng, path):
    """Their covariance has next to no rank, and rounding in float32 makes it indefinite by more than ε."""
    engine = cuda_paths.PATHS[path]("float32", cupy_on_host)
    features, style = (
        50 * np.maximum(rng.standard_normal((4, 5, 64)), 0),
        np.maximum(rng.standard_normal((20, 20, 64)), 0),
    )
    value, gradient = style_loss(features, moments(style), loss=transport_loss)
    there = engine.to_device(features)
    target = engine.moments(engine.to_device(style), None)
    found, d_mean, d_second = transport_loss(engine.moments(there, None), target)
    assert float(found) == pytest.approx(value, rel=1e-3)
    assert relative_error(engine.to_host(engine.pull_back(None, there, None, None, d_mean, d_second)), gradient) < 1e-3


@pytest.mark.parametrize(("precision", "pooling"), [("tf32", "avg"), ("float16", "max")])
def test_the_whole_evaluation_is_the_references_within_the_stated_limits(cupy_on_host, rng, precision, pooling):
    image = rng.uniform(0, 255, (17, 19, 3))
    found = objective(open_engine("cuda", precision), image.shape[:2], pooling=pooling, **DEEP)(image)
    exact = objective(open_engine("reference", "float64"), image.shape[:2], pooling=pooling, **DEEP)(image)
    assert abs(found.loss / exact.loss - 1) < (1e-4 if precision == "tf32" else 1e-3)
    assert relative_error(found.gradient, exact.gradient) < (2e-3 if pooling == "avg" else 3e-2)
    assert evaluation_error(found, exact) < ENGINE_LIMITS[precision]


@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize("form", ["tf32", "float16"])
def test_every_tile_gives_the_same_bits(cupy_on_host, rng, tile, form):
    """So does every order in which a block's threads run: one that reads what another has yet to write would differ."""
    device, kinds = Device(cupy_on_host), FORMS[form]
    x, kernel, _ = layer(rng, 18, 19, 64, 128)
    features = cupy_on_host.asarray(encoded(x, kinds.up))
    filters = cupy_on_host.asarray(encoded(kernel.reshape(9, 64, 128).swapaxes(1, 2), kinds.up))
    results = []
    for which, backward in ((TILES[-1], False), (tile, False), (tile, True)):
        cupy_on_host.backward = backward
        y = device.empty((18, 19, 128), kinds.up_type)
        beginning, ending = (features, None, 0, filters), (None, y, None, 0, 0, 1.0, 0)
        convolve(device, (kinds.up, kinds.up), beginning, ending, (18, 19, 64, 128, 9), which)
        results.append(y.array)
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


@pytest.mark.parametrize("precision", ["float32", "tf32", "float16"])
def test_no_result_depends_on_the_order_of_the_threads_or_on_what_memory_held(cupy_on_host, rng, precision):
    image = rng.uniform(0, 255, (10, 17, 3))
    function = objective(open_engine("cuda", precision), image.shape[:2])
    once = function(image)
    cupy_on_host.backward = True
    again = function(image)
    np.testing.assert_array_equal(once.gradient, again.gradient)
    assert once.terms == again.terms


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_strips_change_nothing(cupy_on_host, rng, precision):
    image = rng.uniform(0, 255, (37, 18, 3))
    function = objective(open_engine("cuda", precision), image.shape[:2])
    whole = function(image)
    function.network.engine.device.workspace = 1  # every strip as small as can be
    limit = 1e-6 if precision == "float32" else 0  # the host's BLAS rounds products of other heights otherwise
    assert relative_error(function(image).gradient, whole.gradient) <= limit


def test_a_tile_is_chosen_by_the_size_of_the_map_and_of_shared_memory(cupy_on_host):
    device = Device(cupy_on_host)
    device.multiprocessors = 132
    assert best_tile(device, 1024, 1024, 64) == (16, 64)
    assert best_tile(device, 512, 512, 128) == (16, 128)
    assert best_tile(device, 32, 32, 512) == (8, 64)
    device.most_shared = 90 << 10
    assert best_tile(device, 512, 512, 128) == (8, 128)
    assert max(cuda_layers.shared_bytes(*tile) for tile in TILES) <= 99 << 10  # of the cards with the least


@pytest.mark.parametrize(("precision", "mode"), [("float32", 0), ("tf32", 3), ("float16", 3)])
def test_cublas_rounds_to_tf32_only_where_that_is_wanted_and_only_within_a_convolution(
    cupy_without_kernels, rng, precision, mode
):
    cublas, modes = cupy_without_kernels.cuda.cublas, []
    multiply = cublas.sgemmStridedBatched

    def seen(*given):
        modes.append(cupy_without_kernels.math_mode)
        multiply(*given)

    cublas.sgemmStridedBatched = seen
    x, kernel, bias = layer(rng, 3, 4, 5, 6)
    engine = layer_of(cuda_paths.PATHS["products"](precision, cupy_without_kernels), kernel, bias)
    _, saved = engine.up(OnDevice(x))
    engine.down(OnDevice(np.zeros((3, 4, 6), np.float32)), saved)
    assert modes == 18 * [mode]
    assert cupy_without_kernels.math_mode == 0


def test_winograds_matrices_are_those_of_the_cpu(cupy_on_host):
    assert source().count("#define BT_") == source().count("#define AT_") == 2
    kernel = np.random.default_rng(0).standard_normal((3, 3, 64, 64)).astype(np.float32)
    assert Winograd(Device(cupy_on_host), FORMS["float32"], kernel, np.zeros(64)).filters.shape == (36, 64, 64)


def test_numbers_are_stored_as_the_host_rounds_them(rng):
    values = np.concatenate([rng.standard_normal(1000), [0.0, 1.0, -2.5, 1e30, 1e-30]]).astype(np.float32)
    assert np.abs(encoded(values, "Tf32") / np.where(values == 0, 1, values) - (values != 0)).max() <= 2.0**-11
    back = (encoded(values, "Bfloat").astype(np.uint32) << np.uint32(16)).view(np.float32)
    assert np.abs(back / np.where(values == 0, 1, values) - (values != 0)).max() <= 2.0**-8


# ---- One evaluation after the other


@pytest.mark.parametrize("loss", STYLE_LOSSES)
@pytest.mark.parametrize("precision", ["tf32", "float16"])
def test_a_recorded_evaluation_gives_the_same_bits_for_every_image(cupy_on_host, rng, precision, loss):
    function = objective(open_engine("cuda", precision), (12, 13), loss=loss)
    edges = partial(laplacian_loss, target=OnDevice(np.ones((1, 1), np.float32)))
    of_pixels = [ImageTerm("laplacian", 0.1, edges), ImageTerm("tv of nine points", 1e4, tv_nine_point_loss)]
    function = replace(function, terms=[*function.terms, *of_pixels])
    Graph.launches = 0
    assert_repeated_gives_the_same_bits(function, rng.uniform(0, 255, (2, 12, 13, 3)))
    assert Graph.launches == 2


def test_a_recorded_evaluation_launches_and_allocates_nothing_by_itself(cupy_on_host, rng):
    function = objective(open_engine("cuda", "tf32"), (16, 17))
    repeated, image = function.repeated(), function.network.engine.to_device(rng.uniform(0, 255, (16, 17, 3)))
    repeated(image)
    launched, allocated = len(cupy_on_host.launched), cupy_on_host.allocated
    repeated(image)
    assert (len(cupy_on_host.launched), cupy_on_host.allocated) == (launched, allocated)


@pytest.mark.parametrize("fails", [False, True], ids=["recorded", "out of memory"])
def test_a_graphs_memory_is_given_back_and_not_before_the_graph_and_its_results_are_gone(cupy_on_host, fails):
    made, alive_when_freed = [], []

    def function(image):
        if fails and made:
            raise MemoryError("Out of memory allocating 512 bytes")
        gradient = image * 2
        made.append(weakref.ref(gradient))
        return image.sum(), gradient, {}

    def free_all_blocks():
        alive_when_freed.append(sum(array() is not None for array in made))

    def pool(allocator):
        made_pool = device_stand_in.Pool(cupy_on_host.memory, allocator)
        made_pool.free_all_blocks = free_all_blocks
        return made_pool

    cupy_on_host.cuda.MemoryPool = pool
    repeated = Repeated(Device(cupy_on_host), function)
    if fails:
        with pytest.raises(MemoryError):
            repeated(OnDevice(np.ones((2, 2, 3))))
        assert alive_when_freed == [0]
        return
    repeated(OnDevice(np.ones((2, 2, 3))))
    assert alive_when_freed == []
    repeated(OnDevice(np.ones((3, 2, 3))))
    assert alive_when_freed == [0]
    del repeated
    assert alive_when_freed == [0, 0]


def test_a_recording_that_needs_the_last_memory_is_left_out(cupy_without_kernels, caplog):
    """CuPy, short of memory, would give back what is recorded already and try again."""
    cupy_without_kernels.cards.free, made = (100,), []

    def function(image):
        made.append(image * 2)  # and kept: each evaluation needs more memory
        return image.sum(), image * 2, {}

    repeated = Repeated(Device(cupy_without_kernels), function)
    with caplog.at_level(logging.INFO, "nst_manual"):
        loss, gradient, _ = repeated(OnDevice(np.ones((2, 2, 3))))
    assert "without a CUDA graph (too little memory to record an evaluation)" in caplog.text
    assert float(loss) == 12
    np.testing.assert_array_equal(gradient.array, np.full((2, 2, 3), 2.0))


def test_a_function_of_a_picture_on_the_host_is_not_recorded(cupy_without_kernels):
    seen = []
    repeated = Repeated(Device(cupy_without_kernels), lambda image: (seen.append(image), image, {}))
    for _ in range(2):
        repeated(np.ones((2, 2, 3)))
    assert len(seen) == 2


def test_what_a_function_keeps_outlives_the_graphs_memory(cupy_without_kernels):
    """CuPy up to 14.0 frees even arrays in use when their pool goes."""
    cupy_without_kernels.memory.pool_dies = "frees"
    kept = []

    def function(image):
        if not kept:
            kept.append(image * 0 + 5)
        return (image * kept[0]).sum(), image * kept[0], {}

    repeated = Repeated(Device(cupy_without_kernels), function)
    repeated(OnDevice(np.ones((2, 2, 3))))
    assert repeated.graph is not None
    del repeated
    assert cupy_without_kernels.memory.pools == []
    assert not any(array is kept[0].array for array in cupy_without_kernels.memory.freed)


def test_another_size_is_recorded_anew(cupy_on_host):
    calls = []

    def function(image):
        calls.append(image.shape)
        return image.sum(), image * 2, {}

    repeated = Repeated(Device(cupy_on_host), function)
    for size in ((2, 2, 3), (2, 2, 3), (3, 2, 3)):
        _, gradient, _ = repeated(OnDevice(np.ones(size)))
        np.testing.assert_array_equal(gradient.array, np.full(size, 2.0))
    assert calls == [(2, 2, 3)] * 3 + [(3, 2, 3)] * 3  # twice to warm up, once recorded


def test_a_graph_whose_first_loss_is_wrong_is_dropped(cupy_without_kernels, caplog):
    calls = []

    def function(image):
        calls.append(1)
        return image.sum() + len(calls), image * 2, {}

    repeated = Repeated(Device(cupy_without_kernels), function)
    with caplog.at_level(logging.INFO, "nst_manual"):
        loss, gradient, _ = repeated(OnDevice(np.ones((2, 2, 3))))
    assert "without a CUDA graph (it gave 15.0 instead of 13.0)" in caplog.text
    assert repeated.graph is None
    assert float(loss) == 16
    np.testing.assert_array_equal(gradient.array, np.full((2, 2, 3), 2.0))


def test_what_cannot_be_recorded_is_computed_step_by_step(cupy_on_host, rng, caplog):
    image = rng.uniform(0, 255, (16, 17, 3))
    plain = objective(open_engine("cuda", "float32"), image.shape[:2])
    repeated = Repeated(Device(cupy_on_host), plain.on_device)  # with cuBLAS, which CuPy lets into no graph
    with caplog.at_level(logging.DEBUG, "nst_manual"):
        for _ in range(2):
            loss, gradient, _ = repeated(plain.network.engine.to_device(image))
    assert "without a CUDA graph (calling cuBLAS" in caplog.text
    assert relative_error(gradient.array, plain(image).gradient) == 0
    assert float(loss) == pytest.approx(plain(image).loss)


@pytest.mark.parametrize("precision", ["float32", "tf32"])
@pytest.mark.parametrize("search", [Lbfgs, Adam])
def test_an_evaluation_in_a_search_is_waited_for_once(cupy_on_host, rng, precision, search):
    function = objective(
        open_engine("cuda", precision),
        (16, 17),
        steps=steps_to("conv1_2", NARROW),
        layers=({"conv1_2": 1.0}, {"conv1_1": 1.0}),
    )
    engine = function.network.engine
    repeated, start = function.repeated(), engine.to_device(rng.uniform(0, 255, (16, 17, 3)))
    repeated(start)
    OnDevice.fetches = 0
    outcome = search(repeated, start, bounds=True, vectors=engine.vectors).run(iterations=4)
    assert OnDevice.fetches == outcome.evaluations
    assert outcome.loss < float(function.on_device(start)[0])


# ---- The optimiser's passes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bounds", [False, True])
@pytest.mark.parametrize(("size", "history"), [(3, 1), (130, 4), (700, 10), (40, 60)])
def test_sums_over_vectors_are_numpys(cupy_on_host, rng, dtype, bounds, size, history):
    rows, x, x_new, g, g_new = (
        rng.uniform(-20, 275, (*shape, size)).astype(dtype) for shape in ((2 * history,), (), (), (), ())
    )
    x_new = np.clip(x_new, 0, 255)
    g_new -= 100
    there = [OnDevice(array) for array in (rows, x, x_new, g, g_new)]
    ours, plain = DeviceVectors(Device(cupy_on_host), there[1], history), Vectors(x, history)
    free, true_free = (np.zeros(size, bool) if bounds else None for _ in range(2))
    table = ours.products(there[0], (there[1], there[2]), (there[3], there[4]), OnDevice(free) if bounds else None)
    true_table = plain.products(rows, (x, x_new), (g, g_new), true_free)
    used = np.ones(true_table.shape, bool)
    used[: 2 * history, -3:] = not bounds  # with bounds, nobody asks for these
    scale = np.abs(true_table).max()
    np.testing.assert_allclose(table.array[used] / scale, true_table[used] / scale, atol=1e-12)
    if bounds:
        np.testing.assert_array_equal(free, true_free)
    for weights in (rng.standard_normal(2 * history + 1), np.array([-0.5])):
        for image in (None, x_new):
            found, expected = np.empty_like(x), np.empty_like(x)
            there_free, there_image = (None if a is None else OnDevice(a) for a in (free, image))
            ours.combine(weights, there[0], there[3], there_free, there_image, OnDevice(found))
            plain.combine(weights, rows, g, true_free, image, expected)
            scale = 255 if image is not None else np.abs(expected).max()
            np.testing.assert_allclose(found / scale, expected / scale, atol=5e-6 if dtype == np.float32 else 1e-12)
    squares = ours.squares(there[3], there[1], there[2]).array
    np.testing.assert_allclose(squares, plain.squares(g, x, x_new), rtol=1e-12)


@pytest.mark.parametrize("history", [14, 60])
@pytest.mark.parametrize("bounds", [False, True])
def test_sums_over_vectors_take_no_more_shared_memory_than_the_card_has(cupy_on_host, history, bounds):
    cupy_on_host.cards.attributes |= {"MaxSharedMemoryPerBlockOptin": 48 << 10}
    device, taken = Device(cupy_on_host), []
    launch = device.launch

    def seen(*given, shared=0):
        taken.append(shared)
        launch(*given, shared=shared)

    device.launch = seen
    rows, x = OnDevice(np.ones((2 * history, 9), np.float32)), OnDevice(np.ones(9, np.float32))
    free = OnDevice(np.zeros(9, bool)) if bounds else None
    table = DeviceVectors(device, x, history).products(rows, (x, x), (x, x), free)
    assert 0 < max(taken) <= 48 << 10
    assert float(table[2 * history + 1, -2]) == 9


def test_a_search_on_the_device_is_that_on_the_host_and_goes_on_from_its_state(cupy_on_host, rng):
    start, centre = (rng.uniform(0, 255, (6, 7, 3)).astype(np.float32) for _ in range(2))
    device, there = Device(cupy_on_host), OnDevice(centre)

    def on_device(x):
        difference = x - there
        return np.sum(difference * difference, dtype=np.float64), 2 * difference, {}

    def on_host(x):
        return float(((x - centre) ** 2).sum(dtype=np.float64)), 2 * (x - centre), {}

    def vectors(image, history):
        return DeviceVectors(device, image, history)

    found = Lbfgs(on_device, OnDevice(start), bounds=True, vectors=vectors).run(iterations=5)
    np.testing.assert_allclose(found.image.array, Lbfgs(on_host, start, bounds=True).run(iterations=5).image, atol=1e-2)
    search = Lbfgs(on_device, OnDevice(start), bounds=True, vectors=vectors)
    search.run(iterations=2)
    state = {k: v.array.copy() if isinstance(v, OnDevice) else v for k, v in search.state().items()}
    state["image"] = OnDevice(state["image"])
    again = Lbfgs.restored(on_device, state, vectors=vectors).run(iterations=4)
    np.testing.assert_array_equal(again.image.array, search.run(iterations=4).image.array)


# ---- Choice and failure


@pytest.fixture
def driver(monkeypatch):
    """Sets what the driver says, and what `import cupy` gives."""

    def set_up(version, cupy=None, capabilities=()):
        monkeypatch.setattr(cuda_probe, "driver_version", lambda: version)
        monkeypatch.setattr(cuda_probe, "capabilities", lambda: list(capabilities))
        monkeypatch.setitem(sys.modules, "cupy", cupy)

    return set_up


class Broken:
    """A CuPy that is of no use: its own error for whatever is computed."""

    def __init__(self, error, runtime=13000, devices=1):
        self.error, self.cuda = error, Cupy(None, runtime=runtime, free=(1 << 30,) * devices).cuda

    def ones(self, *args, **kwargs):
        raise self.error


TROUBLES = {
    "no driver": (None, None, "there is no NVIDIA driver", "install NVIDIA's driver"),
    "an old driver": (11080, None, "up to CUDA 11.8 only", "update NVIDIA's driver"),
    "no CuPy": (12040, None, "CuPy is not installed|can't be imported", r"cupy-cuda12x"),
    "no CuPy, new driver": (13000, None, "CuPy is not installed|can't be imported", r"cupy-cuda13x"),
    "a newer driver than we know": (15010, None, "CuPy", r"cupy-cuda13x"),
    "another CUDA": (12080, Broken(None), "for CUDA 13, .* up to CUDA 12.8", r"uninstall cupy-cuda13x.*cupy-cuda12x"),
    "no card": (13000, Broken(None, devices=0), "finds no card", "nvidia-smi"),
    "no NVRTC": (
        13000,
        Broken(RuntimeError("CuPy failed to load libnvrtc.so.13\nmore")),
        "libnvrtc.so.13",
        r"cupy-cuda13x",
    ),
    "no headers": (12040, Broken(RuntimeError("cannot open source file"), 12000), "cannot open", r"cupy-cuda12x"),
    "no cuBLAS": (13000, Broken(ImportError("libcublas.so.13: cannot open")), "libcublas", r"cupy-cuda13x"),
    "no memory": (13000, Broken(MemoryError("Out of memory allocating 64 bytes")), "memory is full", "close what else"),
}


@pytest.mark.parametrize("case", TROUBLES)
def test_without_a_working_gpu_auto_takes_the_cpu_and_says_why_and_cuda_says_what_to_do(driver, caplog, case):
    version, cupy, reason, remedy = TROUBLES[case]
    driver(version, cupy)
    with caplog.at_level(logging.INFO, "nst_manual"):
        assert open_engine("auto", "float32").name == "cpu"
    (line,) = [record.getMessage() for record in caplog.records]
    assert re.search(f"engine: cpu, float32 \\(no GPU: .*({reason})", line)
    assert bool(re.search(f": .*({remedy})", line)) == (
        version is not None
    )  # without a driver there is no GPU to speak of
    with pytest.raises(NSTError, match=f"(?s)--engine cuda: no GPU: .*({reason}).*({remedy}).* --engine cpu") as caught:
        open_engine("cuda")
    assert "\n" not in str(caught.value)


def test_cards_that_cuda_13_does_not_know_get_the_cupy_for_12(driver, caplog):
    driver(13000, None, capabilities=[70])
    assert "pip install 'cupy-cuda12x[ctk]'" in str(why_no_gpu())
    with caplog.at_level(logging.INFO, "nst_manual"):
        open_engine("auto")
    assert "cupy-cuda12x" in caplog.text
    driver(13000, Broken(None), capabilities=[61])
    trouble = why_no_gpu()
    assert "for CUDA 13, which needs a card of compute capability 7.5, and there is one of 6.1" in trouble.reason
    assert re.search("uninstall cupy-cuda13x.* and pip install 'cupy-cuda12x", trouble.remedy)
    driver(13000, None, capabilities=[75])
    assert "cupy-cuda13x" in why_no_gpu().remedy


def test_an_old_card_beside_a_good_one_is_passed_over_unless_it_is_asked_for(driver, cupy_on_host, monkeypatch):
    cupy_on_host.cards.free = (4 << 30, 1 << 30, 2 << 30)
    cupy_on_host.cuda.runtime.getDeviceCount = lambda: 3
    driver(13000, cupy_on_host, capabilities=[61, 90, 75])
    assert why_no_gpu() is None
    assert cupy_on_host.cards.current == 2
    assert "there is one of 6.1" in why_no_gpu(0).reason
    cupy_on_host.cuda.runtime.runtimeGetVersion = lambda: 12090
    assert why_no_gpu() is None
    assert cupy_on_host.cards.current == 0


def test_the_card_asked_for_is_used_or_the_one_with_the_most_free_memory(driver, host_kernels, monkeypatch):
    cupy = Cupy(host_kernels, free=(1 << 30, 3 << 30, 2 << 30))
    driver(13000, cupy)
    monkeypatch.setattr(cuda_paths, "verdict_of", lambda path, precision, cupy: Verdict(path, precision, ()))
    for asked, used in ((None, 1), (2, 2), (0, 0)):
        open_engine("cuda", "float32", device=asked)
        assert cupy.cards.current == used
    with pytest.raises(NSTError, match="--device 3: there are 3 cards, numbered from 0"):
        open_engine("auto", device=3)


@pytest.mark.parametrize("begins", ["to_device", "repeated"])
def test_an_engine_uses_its_card_in_every_thread(cupy_without_kernels, begins):
    """CuPy's current device is each thread's own."""
    cards = cupy_without_kernels.cards
    cards.free, cards.current = (1 << 30, 1 << 30), 1
    engine, used = cuda_paths.PATHS["plain"]("float32", cupy_without_kernels), []

    def function(image):
        used.append(cards.current)
        return image.sum(), image, {}

    image = np.ones((2, 2, 3))
    task = engine.repeated(function) if begins == "repeated" else lambda image: function(engine.to_device(image))
    thread = threading.Thread(target=task, args=(engine.to_device(image) if begins == "repeated" else image,))
    thread.start()
    thread.join()
    assert used == [1]


def test_amds_cards_take_the_plain_path_if_they_compute_at_all(driver, host_kernels, monkeypatch):
    cupy = Cupy(host_kernels)
    driver(None, cupy)
    assert why_no_gpu().reason == "no GPU: there is no NVIDIA driver"
    cupy.cuda.runtime.is_hip = True
    tested = []

    def verdict(path, precision, cupy):
        tested.append(path)
        return Verdict(path, precision, ())

    monkeypatch.setattr(cuda_paths, "verdict_of", verdict)
    assert open_engine("cuda", "float16").name == "cuda plain"
    assert tested == ["plain"]
    cupy.ones = Broken(RuntimeError("hipErrorNoBinaryForGpu")).ones
    with pytest.raises(
        NoGPU, match=r"^--engine cuda: no GPU: hipErrorNoBinaryForGpu: see whether rocminfo lists your card"
    ):
        open_engine("cuda")


def test_a_product_that_is_wrong_is_no_gpu(driver, cupy_on_host):
    driver(13000, cupy_on_host)
    assert why_no_gpu() is None
    cupy_on_host.ones = lambda shape, dtype: OnDevice(np.full(shape, 2, dtype))
    assert "test product is wrong" in why_no_gpu().reason


def test_why_there_is_no_gpu_can_be_told_by_another_machine():
    error = NoGPU(Trouble("no GPU: there is no card", "buy one"))
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.trouble) == (NoGPU, str(error), error.trouble)


def test_a_working_gpu_is_taken(cupy_on_host, caplog):
    with caplog.at_level(logging.INFO, "nst_manual"):
        engine = open_engine("auto", "tf32")
    assert (engine.name, engine.precision) == ("cuda", "tf32")
    assert caplog.messages == ["engine: cuda, tf32"]
    assert open_engine("cuda", "float64").precision == "float64"
    with pytest.raises(NSTError, match="computes in"):
        open_engine("cuda", "float8")


def test_an_old_card_computes_in_float32_only(cupy_on_host, monkeypatch):
    monkeypatch.setattr(Card, "compute_capability", "75")
    assert open_engine("cuda", "float32").name == "cuda"
    with pytest.raises(NoGPU, match=r"tf32 needs a GPU of compute capability 8.0, and this one's is 7.5"):
        open_engine("cuda", "tf32")


@pytest.mark.parametrize("search", [Lbfgsb, Lbfgs, Adam])
def test_memory_that_runs_out_ends_a_search_with_the_best_so_far(rng, search):
    centre, seen = rng.uniform(0, 255, (4, 5, 3)), []

    def function(x):
        if len(seen) == 5:
            raise MemoryError("the device is full")
        difference = x - centre
        seen.append(float((difference**2).sum()))
        return seen[-1], 2 * difference * np.linspace(1, 9, 3), {}

    outcome = search(function, rng.uniform(0, 255, (4, 5, 3))).run(iterations=50)
    assert (outcome.stopped, outcome.loss) == ("out of memory", min(seen))
    assert "the device is full; the picture is the best so far" in outcome.message
    seen[:] = [0.0] * 5  # at the very first evaluation there is nothing to save
    with pytest.raises(MemoryError):
        search(function, rng.uniform(0, 255, (4, 5, 3))).run(iterations=50)


def test_the_message_says_what_would_fit(cupy_on_host):
    device = Device(cupy_on_host, bytes_per_pixel=800)

    def function(image):
        raise MemoryError("Out of memory allocating 512 bytes")

    with pytest.raises(
        MemoryError, match=r"1.1 of 8.6 GB free, too little at 6000 × 4000 .*; about 3800 × 2536 should"
    ):
        Repeated(device, function)(OnDevice(np.zeros((4000, 6000, 3), np.float32)))


# ---- With tools that need no GPU


def test_the_measuring_tool_runs_and_finds_what_is_wrong(cupy_on_host, tmp_path, monkeypatch, capsys):
    """On the stand-in and the narrowest of networks, so that what it does is proved before there is a GPU."""
    monkeypatch.syspath_prepend(str(TOOLS))
    tool = importlib.import_module("bench_cuda")
    tiny = steps_to("conv2_1", vgg_table(((2, 64), (1, 64))))
    for module in (tool, sys.modules["bench"]):
        monkeypatch.setattr(module, "STEPS", tiny)
    monkeypatch.setattr(sys.modules["bench"], "CONTENT", {"conv1_2": 1.0})
    monkeypatch.setattr(sys.modules["bench"], "STYLE", {"conv1_1": 0.5, "conv2_1": 0.5})
    monkeypatch.setattr(tool, "checks", lambda engine, precision: [])
    verdicts = [(Verdict(path, "tf32", (), 31, 2.5), {}) for path in cuda_paths.PATHS]
    monkeypatch.setattr(tool, "survey", lambda precisions, number, timed: verdicts)
    monkeypatch.setattr(tool, "process_memory", lambda o, who, p, size: tool.memory_of_this_process(o, who, p))
    monkeypatch.setattr(tool, "PAIRS", 1)
    small = [
        "--check-size",
        "4",
        "--size",
        "8",
        "--run-size",
        "8",
        "--layer-size",
        "4",
        "--memory-size",
        "8",
        "--large",
        "8",
    ]
    small += ["--iterations", "2", "--repeats", "1", "--ours", "--precision", "tf32", "--out", str(tmp_path)]
    assert tool.main(small) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [row["part"] for row in printed] == sorted(
        (row["part"] for row in printed), key=["checks", *tool.PARTS].index
    )
    assert {row["part"] for row in printed} == {"checks", *tool.PARTS}
    assert all(row["at s"] >= 0 for row in printed)
    report = json.loads((tmp_path / "cuda.json").read_text(encoding="utf-8"))
    assert list(report) == ["machine", "checks", *tool.PARTS]
    assert all(row["right"] for row in report["checks"])
    assert [row["path"] for row in report["evaluations"]] == list(cuda_paths.PATHS)
    assert {row["way"] for row in report["layers"]} == {
        "first",
        "8 × 16 pixels, 64 channels",
        "16 × 16 pixels, 64 channels",
    }
    assert "| precision | path | size |" in (tmp_path / "cuda.md").read_text(encoding="utf-8")
    monkeypatch.setattr(tool, "LAYER_LIMITS", {"tf32": (1e-9, 1e-9)})
    assert tool.main([*small, "--check"]) == 1
    assert "NO" in (tmp_path / "cuda.md").read_text(encoding="utf-8")


def test_the_measuring_tool_measures_no_longer_than_it_must(cupy_without_kernels, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    tool, calls = importlib.import_module("bench_cuda"), []
    monkeypatch.setattr(tool, "LONGEST", 0.0)
    tool.milliseconds(lambda: calls.append(1), 20)
    assert len(calls) == 3 + 3
    monkeypatch.setattr(tool, "time_evaluation", lambda row, options: None)
    options = SimpleNamespace(precision=["float32", "tf32"], path=["products", "plain"], size=[8], ours=True)
    rows = [(row["precision"], row["path"]) for row in tool.evaluations(options)]
    assert rows == [("float32", "products"), ("float32", "plain"), ("tf32", "products")]


@pytest.mark.parametrize(("part", "card"), [(0, "sm_80"), (1, "sm_89"), (2, "sm_90")])
def test_nvcc_compiles_every_kernel(tmp_path, part, card):
    """Each kernel for one of the cards: all for all would take a minute."""
    compiler = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if compiler is None:
        pytest.skip("needs NVIDIA's compiler, nvcc")
    table = f"void* table[] = {{{', '.join(f'(void*)&{name}' for name in KERNELS[part::3])}}};"
    (tmp_path / "kernels.cu").write_text(f"{source()}\n{table}\n", encoding="utf-8")
    options = ["-std=c++17", f"-arch={card}", "-cubin", "-Xptxas", "-O0"]
    command = [compiler, *options, "-o", tmp_path / "out.cubin", tmp_path / "kernels.cu"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


# ---- On a GPU


@pytest.fixture
def gpu(kept_verdicts):
    if trouble := why_no_gpu():
        pytest.skip(f"needs a CUDA GPU: {trouble.reason}")


@pytest.mark.parametrize("precision", ["float64", "float32", "tf32", "float16"])
@pytest.mark.parametrize(("pooling", "loss"), [("max", "gram"), *(("avg", loss) for loss in STYLE_LOSSES)])
def test_on_a_gpu_the_whole_gradient_is_that_of_float64_on_the_host(gpu, rng, precision, pooling, loss):
    """In tf32 and float16 as a mean over images: at a single one, some ReLUs and pooling winners differ."""
    size = (37, 50) if precision in ROUGH else (93, 130)
    engines = open_engine("cuda", precision), ReferenceEngine("float64")
    function, exact = (objective(engine, size, pooling=pooling, loss=loss, **DEEP) for engine in engines)
    error, finding = against_reference(function, exact, rng.uniform(0, 255, (*size, 3)), images=256)
    assert error < ENGINE_LIMITS[precision], finding


@pytest.mark.parametrize("precision", ["float64", "float32", "tf32", "float16"])
@pytest.mark.parametrize("loss", STYLE_LOSSES)
def test_on_a_gpu_a_repeated_evaluation_gives_the_same_bits(gpu, rng, precision, loss):
    function = objective(open_engine("cuda", precision), (93, 130), loss=loss, **DEEP)
    assert_repeated_gives_the_same_bits(function, rng.uniform(0, 255, (2, 93, 130, 3)))


@pytest.mark.parametrize("precision", ["tf32", "float16"])
def test_on_a_gpu_kernels_give_what_they_give_on_the_host(gpu, request, rng, precision):
    """The tensor cores add up in another order, so not bit for bit."""
    image = rng.uniform(0, 255, (40, 37, 3))
    there = objective(open_engine("cuda", precision), image.shape[:2])(image)
    request.getfixturevalue("cupy_on_host")
    here = objective(open_engine("cuda", precision), image.shape[:2])(image)
    assert evaluation_error(there, here) < 2e-2


@pytest.mark.parametrize("precision", ["float32", "tf32", "float16"])
def test_on_a_gpu_a_search_gets_as_low_as_on_the_host(gpu, rng, precision):
    start = rng.uniform(0, 255, (64, 80, 3))
    losses = []
    for engine in (open_engine("cuda", precision), open_engine("cpu", "float32")):
        function = objective(engine, start.shape[:2], **DEEP)
        search = Lbfgs(function.repeated(), engine.to_device(start), bounds=True, vectors=engine.vectors)
        losses.append(search.run(iterations=40).loss)
    assert losses[0] < 1.1 * losses[1]
