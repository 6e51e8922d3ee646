"""Transfers at once in several threads: each is what it is alone, and nothing is left changed."""

import _thread
import gc
import logging
import sys
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Barrier

import numpy as np
import pytest
from picture_files import grains
from threadpoolctl import threadpool_limits
from weight_files import state_pickle

from nst_manual import transfer
from nst_manual.engines.cpu import threads as cpu_threads
from nst_manual.engines.cpu.engine import CpuEngine
from nst_manual.engines.cpu.threads import Phase, Workers
from nst_manual.objective import Style
from nst_manual.optimise import Lbfgsb
from nst_manual.optimise.lbfgsb import fmin_l_bfgs_b
from nst_manual.pictures.reading import load_image
from nst_manual.problem import make_objective
from nst_manual.proof.checks import random_filters
from nst_manual.settings import Settings
from nst_manual.vgg import Network, steps_to
from nst_manual.weights import Weights
from nst_manual.weights.bounded_file import WeightsFile
from nst_manual.weights.formats.hdf5 import write_hdf5
from nst_manual.weights.formats.pickles import read_pickle

SIZES = (24, 32)
QUICK = {"iterations": 3, "style_layers": "conv1_1,conv2_1", "content_layers": "conv2_2", "weights": "calibrated"}


@pytest.mark.parametrize("engines", [("cpu", "cpu"), ("reference", "reference"), ("cpu", "reference")])
def test_two_transfers_at_once_give_what_they_give_alone(tmp_path, engines, caplog, blas_threads):
    grains(48, 36).save(tmp_path / "content.png")
    grains(40, 48).save(tmp_path / "style.png")
    files = tmp_path / "content.png", tmp_path / "style.png"

    def run(number, out, ready=None):
        if ready is not None:
            ready.wait()
        options = {**QUICK, "size": SIZES[number], "engine": engines[number], "init": "noise", "seed": number}
        result = transfer(*files, output=out / f"{number}.png", **options)
        return result.pixels, [record.loss for record in result.trace]

    fmin_l_bfgs_b()  # SciPy adds a warning filter, and a BLAS, when it is loaded
    filters, threads = list(warnings.filters), blas_threads()
    alone = tmp_path / "alone"
    alone.mkdir()
    expected = [run(number, alone) for number in range(2)]
    with caplog.at_level(logging.INFO, "nst_manual"):
        for turn in range(2):
            ready, out = Barrier(2), tmp_path / f"turn{turn}"
            out.mkdir()
            with ThreadPoolExecutor(2) as pool:
                found = list(pool.map(run, range(2), [out] * 2, [ready] * 2))
            for number, ((pixels, losses), (alone_pixels, alone_losses)) in enumerate(
                zip(found, expected, strict=True)
            ):
                np.testing.assert_array_equal(pixels, alone_pixels)
                assert losses == alone_losses
                assert (out / f"{number}.png").exists()
    assert warnings.filters == filters
    assert blas_threads() == threads


@pytest.mark.parametrize("weights", ["calibrated", "file"])
def test_threads_do_not_change_a_bit_of_a_transfer(tmp_path, weights):
    content, style = grains(48, 36), grains(40, 48)
    if weights == "file":
        filters = random_filters(steps_to("conv2_2"), 1)
        weights = str(tmp_path / "weights.h5")
        write_hdf5(tmp_path / "weights.h5", Weights(filters, (120.0, 115.0, 100.0), "oxford", "made here", "none"))
    found = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads, user_api="blas"):
            options = {**QUICK, "weights": weights, "size": 40, "engine": "cpu", "threads": threads}
            result = transfer(content, style, **options)
        found.append((result.pixels.tobytes(), [record.loss for record in result.trace]))
    assert found[0] == found[1] == found[2]


def test_runs_that_share_an_engine_do_not_share_its_memory(rng):
    engine, steps = CpuEngine(threads=4), steps_to("conv2_2")
    network = Network.build(engine, random_filters(steps, 5), (120.0, 115.0, 100.0), steps)
    images = [rng.uniform(0, 255, (66, 70, 3)) for _ in range(4)]  # features are larger than what is left to NumPy
    content, style = (rng.uniform(0, 255, (66, 70, 3)) for _ in range(2))
    settings = Settings(content_layers="conv2_2", style_layers="conv1_1,conv2_1")
    objective = make_objective(settings, network, content, [Style(style)])
    alone = [objective(image).gradient.copy() for image in images]

    def evaluated(image):
        return [objective(image).gradient.copy() for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        for expected, found in zip(alone, pool.map(evaluated, images), strict=True):
            for gradient in found:
                np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_phase_begins_when_the_one_before_has_ended(count):
    workers, log = Workers(count), []

    def slow(item):
        time.sleep(0.002 * item)
        log.append(item)

    for turn in range(5):
        log.clear()
        phases = Phase(slow, [5, 0, 1]), Phase(log.append, []), Phase(slow, [3, 2]), Phase(log.append, ["a", "b"])
        workers.run_phases(*phases)
        assert [sorted(part) for part in (log[:3], log[3:5], log[5:])] == [[0, 1, 5], [2, 3], ["a", "b"]], turn


def test_when_a_phase_fails_the_next_ones_do_not_begin_and_nobody_is_left_at_work():
    workers, log = Workers(3), []

    def fail(item):
        time.sleep(0.005 * item)
        log.append(item)
        if item == 1:
            raise ArithmeticError("one")

    for _ in range(5):
        log.clear()
        with pytest.raises(ArithmeticError, match="one"):
            workers.run_phases(Phase(fail, [2, 1, 3]), Phase(log.append, range(10, 20)))
        known = list(log)
        time.sleep(0.02)
        assert log == known
        assert set(known) <= {1, 2, 3}


def test_what_has_failed_keeps_no_arrays():
    """After "out of memory", above all: what the work referred to must be free at once, not when next collected."""

    def failed():
        array = np.zeros(10)
        known.append(weakref.ref(array))

        def task(_):
            raise MemoryError(len(array))

        with pytest.raises(MemoryError):
            Workers(2).run(task, range(4))

    known = []
    gc.collect()
    gc.disable()
    try:
        failed()
        assert known[0]() is None
    finally:
        gc.enable()


def test_shares_are_all_there_is_and_grow_smaller():
    for count, threads in ((36, 1), (36, 2), (64, 16), (1, 3), (0, 2)):
        shares = Workers(threads).shares(count)
        assert [k for share in shares for k in range(share.start, share.stop)] == list(range(count))
        sizes = [share.stop - share.start for share in shares]
        assert sizes == sorted(sizes, reverse=True)


@pytest.fixture
def helpers(monkeypatch):
    """What helpers do: "begun" and "ended"."""
    seen = SimpleQueue()

    def serve(*arguments, serve=cpu_threads._serve):
        seen.put("begun")
        serve(*arguments)
        seen.put("ended")

    monkeypatch.setattr(cpu_threads, "_serve", serve)
    return seen


def test_the_threads_of_workers_end_with_them(helpers):
    workers = Workers(4)
    workers.run(lambda item: None, range(8))
    assert [helpers.get(timeout=10) for _ in range(3)] == ["begun"] * 3
    assert helpers.empty()
    del workers
    assert [helpers.get(timeout=10) for _ in range(3)] == ["ended"] * 3


def test_a_thread_that_cannot_be_started_is_too_little_memory(helpers, monkeypatch):
    start, started = _thread.start_new_thread, []

    def third_fails(function, arguments):
        started.append(function)
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        return start(function, arguments)

    monkeypatch.setattr(_thread, "start_new_thread", third_fails)
    with pytest.raises(MemoryError, match="6 threads can't be started: give fewer with --threads"):
        Workers(6)
    assert sorted(helpers.get(timeout=10) for _ in range(4)) == ["begun", "begun", "ended", "ended"]


def test_a_thread_that_ends_before_it_begins_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("nst_manual.engines.cpu.threads.PATIENCE", 0.05)
    monkeypatch.setattr(_thread, "start_new_thread", lambda function, arguments: 0)
    with pytest.raises(MemoryError, match="2 threads can't be started"):
        Workers(2)


def test_blas_has_its_threads_again_when_the_last_of_several_engines_is_done(known_blas, blas_threads):
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        one, two = Workers(1), Workers(1)
        inside, first_is_out = Barrier(2), Barrier(2)
        during = []

        def first(_):
            inside.wait()

        def second(_):
            inside.wait()
            first_is_out.wait()
            during.append(blas_threads())

        with ThreadPoolExecutor(2) as pool:
            ended = pool.submit(two.run, second, [0])
            pool.submit(one.run, first, [0]).result()
            first_is_out.wait()
            ended.result()
        assert during == [{1}]
        assert blas_threads() == before


def test_scipys_searches_at_once_leave_blas_as_it_was(blas_threads):
    def function(x, turn=[0]):  # noqa: B006 — counted over all of them
        turn[0] += 1
        np.random.default_rng(turn[0]).standard_normal((60, 60)) @ np.ones((60, 60))
        return float((x**2).sum()), 2 * x, {}

    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with ThreadPoolExecutor(3) as pool:
            searches = [Lbfgsb(function, np.full((8, 9, 3), 9.0 + k)) for k in range(6)]
            runs = [pool.submit(search.run, iterations=4 + 3 * k) for k, search in enumerate(searches)]
            assert all(run.result().loss < 1e-6 for run in runs)
        assert blas_threads() == before


@pytest.fixture
def hasty_turns():
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_pickles_and_pictures_read_at_once_leave_the_warning_filters(tmp_path, hasty_turns):
    grains(48, 36).save(tmp_path / "picture.png")
    (tmp_path / "weights.pth").touch()
    data = state_pickle({"a.weight": np.zeros((2, 3), np.float32)})
    before, ready = list(warnings.filters), Barrier(4)

    def read(number):
        ready.wait()
        for _ in range(50):
            if number % 2:
                load_image(tmp_path / "picture.png")
            else:
                read_pickle(file, data)

    with WeightsFile(tmp_path / "weights.pth") as file, ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))
    assert warnings.filters == before
