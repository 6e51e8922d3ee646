"""What only the CPU's engine has: transforms, threads, masks in bits, features computed twice."""

import gc
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from operations import layer_of
from threadpoolctl import threadpool_info, threadpool_limits

from nst_manual.engines.cpu import losses as cpu_losses
from nst_manual.engines.cpu import products, threads
from nst_manual.engines.cpu.engine import CpuEngine
from nst_manual.engines.cpu.first_layer import strips
from nst_manual.engines.cpu.products import multiply
from nst_manual.engines.cpu.threads import Workers
from nst_manual.engines.cpu.winograd import blocks
from nst_manual.engines.winograd import M, N, transformed, transforms
from nst_manual.losses import moments
from nst_manual.objective import Objective, Style, content_terms, style_terms
from nst_manual.presets import PRESETS, Formula
from nst_manual.proof.checks import MEAN, random_filters
from nst_manual.proof.differences import relative_error
from nst_manual.vgg import Network, convolutions, vgg_table

BENCH = Path(__file__).parents[2] / "tools" / "bench.py"
WIDE = vgg_table(((2, 64), (1, 128), (1, 256), (2, 512)))[:-1]  # every kind of layer that VGG-19 has


def objective(engine, rng, shape=(48, 53)):
    content, style = (rng.uniform(0, 255, (*shape, 3)) for _ in range(2))
    layers = convolutions(WIDE)
    network = Network.build(engine, random_filters(WIDE, 5), MEAN, WIDE, taps={layers[-1], *layers[::2]})
    terms = content_terms(network, content, {layers[-1]: 1.0}, Formula(PRESETS["gatys"]))
    styles = dict.fromkeys(layers[::2], 1.0)
    return Objective(network, terms + style_terms(network, [Style(style)], styles, Formula(PRESETS["gatys"]), shape))


def test_the_transforms_make_a_convolution(rng):
    forward, turned = transforms()
    d, k = rng.standard_normal((N, N)), rng.standard_normal((3, 3))
    u = forward.g @ k @ forward.g.T

    def convolved(kernel):
        return [[np.sum(d[i : i + 3, j : j + 3] * kernel) for j in range(M)] for i in range(M)]

    np.testing.assert_allclose(forward.at @ (u * (forward.bt @ d @ forward.bt.T)) @ forward.at.T, convolved(k))
    # The turned kernel's convolution needs no other transformed kernel.
    np.testing.assert_allclose(
        turned.at @ (u * (turned.bt @ d @ turned.bt.T)) @ turned.at.T, convolved(k[::-1, ::-1]), atol=1e-12
    )


def test_transformed_filters_lie_as_the_walk_down_multiplies_by_them(rng):
    kernel = rng.standard_normal((3, 3, 37, 5))
    g = transforms()[0].g
    expected = np.einsum("ai,bj,ijco->aboc", g, g, kernel).reshape(36, 5, 37)
    np.testing.assert_allclose(transformed(kernel), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (17, 16), (130, 65)])
@pytest.mark.parametrize("tiles", [1, 7, 96])
def test_blocks_cover_every_tile_once(size, tiles):
    rows, columns = -(-size[0] // 4), -(-size[1] // 4)
    count = np.zeros((rows, columns), int)
    for block in blocks(*size, tiles):
        count[block.pixels(1)] += 1
        assert block.shape[0] * block.shape[1] <= max(tiles, 1)
    assert (count == 1).all()


@pytest.mark.parametrize("size", [(1, 1), (5, 9000), (70, 300)])
def test_strips_cover_every_row_once(size):
    assert [row for first, last in strips(*size) for row in range(first, last)] == list(range(size[0]))


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize(
    "shape",
    [
        *((2, 1, 8, 64), (3, 23, 16, 128), (1, 24, 64, 64), (2, 50, 5, 7), (1, 17, 600, 192)),
        *((2, 130, 128, 128), (1, 70, 200, 64), (1, 64, 512, 128), (1, 20, 1000, 64)),
    ],
)
def test_products_cut_in_pieces_are_the_products(rng, monkeypatch, shape, small):
    monkeypatch.setattr(products, "small_is_fast", lambda: small)
    count, rows, inner, columns = shape
    a, b = (
        rng.standard_normal((count, rows, inner), np.float32),
        rng.standard_normal((count, inner, columns), np.float32),
    )
    turned = np.ascontiguousarray(b.swapaxes(1, 2)).swapaxes(1, 2)
    for right in (b, turned):
        out = np.full((count, rows, columns), np.nan, np.float32)
        multiply(a, right, out)
        np.testing.assert_allclose(out, a.astype(np.float64) @ b, atol=1e-4)


def test_threads_and_the_users_blas_setting_do_not_change_a_bit(rng):
    image = rng.uniform(0, 255, (48, 53, 3))
    expected = objective(CpuEngine(threads=1), np.random.default_rng(7))(image)
    for count in (1, 2, 3):
        function = objective(CpuEngine(threads=count), np.random.default_rng(7))
        for limit in (1, 2, None):
            with threadpool_limits(limit):
                found = function(image)
            assert found.loss == expected.loss
            np.testing.assert_array_equal(found.gradient, expected.gradient)


def test_threads_do_not_change_a_bit_of_regions_either():
    rng = np.random.default_rng(7)
    image, style, region = rng.uniform(0, 255, (48, 53, 3)), rng.uniform(0, 255, (48, 53, 3)), rng.random((48, 53))
    evaluations = []
    for count, limit in ((1, 1), (2, None)):
        taps = {"conv1_1": 1.0, "conv3_1": 1.0}
        network = Network.build(CpuEngine(threads=count), random_filters(WIDE, 5), MEAN, WIDE, taps=taps)
        with threadpool_limits(limit):
            styles = [Style(style, region=region), Style(style, mask=region, region=1 - region)]
            terms = style_terms(network, styles, taps, Formula(PRESETS["gatys"]), image.shape[:2])
            evaluations.append(Objective(network, terms)(image))
    assert evaluations[0].loss == evaluations[1].loss
    np.testing.assert_array_equal(evaluations[0].gradient, evaluations[1].gradient)


def test_the_users_blas_setting_is_given_back(rng):
    with threadpool_limits(2, user_api="blas"):
        before = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
        seen = []
        Workers(2).run(lambda _: seen.append({library["num_threads"] for library in blas_libraries()}), range(3))
        assert seen == [{1}] * 3
        assert [library["num_threads"] for library in blas_libraries()] == before


def blas_libraries():
    return [library for library in threadpool_info() if library["user_api"] == "blas"]


def test_an_exception_in_a_thread_is_raised_and_the_next_work_is_done():
    workers = Workers(2)

    def fail(item):
        if item == 3:
            raise ArithmeticError("three")

    with pytest.raises(ArithmeticError, match="three"):
        workers.run(fail, range(6))
    done = []
    workers.run(done.append, range(6))
    assert sorted(done) == list(range(6))


def test_threads_warn_as_the_caller_does():
    together = threading.Barrier(2)  # so that each of the two threads has an item
    settings = []

    def look(_):
        together.wait(10)
        settings.append(np.geterr()["over"])

    with np.errstate(over="raise"):
        Workers(2).run(look, range(2))
    assert settings == ["raise"] * 2


@pytest.mark.parametrize("shape", [(40, 40, 64), (5, 6, 64), (33, 47, 128)])
def test_a_part_of_a_larger_array_has_the_same_convolution(rng, shape):
    """Tiles are read where they lie, so how an array lies in memory must not matter."""
    layer = layer_of(CpuEngine(threads=1), rng.standard_normal((3, 3, shape[2], 64)), rng.standard_normal(64))
    whole = rng.standard_normal((shape[0] + 3, shape[1] + 5, shape[2])).astype(np.float32)
    part = whole[1 : shape[0] + 1, 2 : shape[1] + 2]
    np.testing.assert_array_equal(layer.up(part)[0], layer.up(part.copy())[0])


@pytest.mark.parametrize("pooling", [None, "avg"])
def test_a_mask_takes_one_bit_per_activation_and_the_first_layer_none(rng, pooling):
    engine, x = CpuEngine(), rng.standard_normal((12, 20, 3)).astype(np.float32)
    features, saved = layer_of(engine, rng.standard_normal((3, 3, 3, 64)), np.zeros(64)).up(x)
    assert saved.x is x
    _, mask = layer_of(engine, rng.standard_normal((3, 3, 64, 128)), np.zeros(128), pooling=pooling).up(features)
    assert mask.nbytes == 12 * 20 * 128 // 8
    assert np.unpackbits(mask, axis=2).mean() > 0.1


def test_large_maps_are_summed_from_parts(rng, monkeypatch):
    features = np.maximum(rng.standard_normal((31, 20, 64)), 0).astype(np.float32)
    whole = CpuEngine().moments(features, None)
    monkeypatch.setattr(cpu_losses, "PRODUCT", 1)
    for one, other in zip(CpuEngine().moments(features, None), whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_moments_of_many_channels_are_made_of_blocks(rng, weighted):
    features = np.maximum(rng.standard_normal((9, 7, 300)), 0).astype(np.float32)  # three blocks, the last one smaller
    weights = rng.random((9, 7)).astype(np.float32) if weighted else None
    found, expected = CpuEngine().moments(features, weights), moments(features.astype(np.float64), weights)
    assert relative_error(found.mean, expected.mean) < 1e-6
    assert relative_error(found.second, expected.second) < 1e-6
    np.testing.assert_array_equal(found.second, found.second.T)


def test_nothing_of_an_evaluation_waits_for_pythons_garbage_collector(rng):
    """Features that stay, in a circle of references, would be in the way of the next evaluation's."""
    taps = {"conv1_1": 1.0, "conv2_1": 1.0}
    network = Network.build(CpuEngine(threads=2), random_filters(WIDE, 5), MEAN, WIDE, taps=taps)
    content, style, image = (rng.uniform(0, 255, (96, 96, 3)) for _ in range(3))
    terms = content_terms(network, content, {"conv2_1": 1.0}, Formula(PRESETS["gatys"]))
    terms += style_terms(network, [Style(style)], taps, Formula(PRESETS["gatys"]), image.shape[:2])
    objective = Objective(network, terms)
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            objective(image)
        memory = network.engine.workers.memory
        assert memory.count
        assert not [place for one in memory.stretches for place in one.places if place.array() is not None]
    finally:
        gc.enable()


def test_scratch_memory_grows_and_keeps_its_zeros():
    assert threads.scratch("test", 5).size == 5
    assert threads.scratch("test", 50).size == 50
    assert not threads.scratch("test zeros", 30, zero=True).any()


def test_the_benchmark_tells_what_the_readme_shows():
    command = [sys.executable, BENCH, "--ours", "--size", "32", "--repeats", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)
    assert {"size", "threads", "blas", "ours_s", "ours_peak_mb", "gradient_error"} <= row.keys()
    assert row["gradient_error"] < 1e-4
