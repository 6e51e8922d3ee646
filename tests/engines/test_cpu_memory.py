"""The memory for feature maps: arrays never share it, give it back when they go, and need no more than is alive."""

import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from picture_files import grains

from nst_manual.engines import open_engine
from nst_manual.engines.cpu.first_layer import FirstLayer
from nst_manual.engines.cpu.memory import SMALL, Memory, aligned
from nst_manual.engines.cpu.threads import scratch
from nst_manual.engines.cpu.winograd import WinogradConvolution
from nst_manual.objective import Style
from nst_manual.problem import make_objective
from nst_manual.proof.checks import MEAN, random_filters
from nst_manual.settings import Settings
from nst_manual.vgg import Network, steps_to

FLOATS = SMALL // 4


def test_an_array_is_what_was_asked_for():
    memory = Memory()
    for shape in ((FLOATS, 2), (2, 3), (1, 5, FLOATS)):
        array = memory.empty(shape)
        assert (array.shape, array.dtype, array.flags.c_contiguous) == (shape, np.float32, True)
        array[...] = 1


def test_what_is_small_takes_no_stretch():
    memory = Memory()
    memory.empty((FLOATS - 1,))
    assert not memory.stretches


def test_arrays_begin_at_a_line_of_the_cache():
    memory = Memory()
    arrays = [memory.empty((size,)) for size in (5, FLOATS, FLOATS + 7, 9 * FLOATS)]
    arrays += [scratch("of this test", size) for size in (1, 33, FLOATS)]
    arrays += [aligned((3, size), zero) for size in (1, 21, FLOATS) for zero in (False, True)]
    arrays.append(FirstLayer(np.ones((3, 3, 3, 8)), np.ones(8)).matrix)
    for c_in, c_out in ((8, 16), (80, 24)):
        filters = WinogradConvolution(np.ones((3, 3, c_in, c_out)), np.ones(c_out))
        arrays += [filters.turned, filters.u]
    assert {array.ctypes.data % 64 for array in arrays} == {0}


def test_a_new_array_of_zeros_is_one():
    for size in (1, 21, FLOATS):
        aligned((2, size))[...] = 1
        assert not aligned((2, size), zero=True).any()


def test_living_arrays_do_not_overlap(rng):
    memory = Memory()
    living = {}
    for number in range(300):
        if len(living) > 6:
            del living[int(rng.choice(list(living)))]
        array = memory.empty((int(rng.integers(FLOATS, 4 * FLOATS)),))
        array[...] = number
        living[number] = array[3:-3] if number % 2 else array.reshape(1, -1)  # a view keeps its place
        del array
        for kept, other in living.items():
            assert (other == kept).all()


def test_a_place_is_free_when_nobody_refers_to_it():
    memory = Memory()
    first = memory.empty((4 * FLOATS,))
    address, part = first.ctypes.data, first.reshape(4, -1)[1:2]
    del first
    second = memory.empty((4 * FLOATS,))
    assert second.ctypes.data != address
    del part
    assert memory.empty((4 * FLOATS,)).ctypes.data == address


def test_each_thread_has_its_own():
    memory = Memory()
    mine = memory.empty((4 * FLOATS,))
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(lambda: memory.stretches).result()
        other = pool.submit(memory.empty, mine.shape).result()
    assert [stretch.used for stretch in memory.stretches] == [mine.nbytes]
    assert not np.shares_memory(mine, other)


def test_small_ones_take_the_place_of_a_large_one():
    memory = Memory()
    memory.empty((4 * FLOATS,))
    quarters = [memory.empty((FLOATS,)) for _ in range(4)]
    (stretch,) = memory.stretches
    assert stretch.used == 4 * SMALL
    assert len({array.ctypes.data for array in quarters}) == 4


def test_what_fits_into_no_gap_goes_to_the_end():
    memory = Memory()
    memory.empty((4 * FLOATS,))
    first, second, third = (memory.empty((FLOATS,)) for _ in range(3))
    del first
    fourth = memory.empty((2 * FLOATS,))  # one is free in front of the third, and one behind it
    (stretch,) = memory.stretches
    assert stretch.used == 6 * SMALL
    assert not any(np.shares_memory(fourth, array) for array in (second, third))


def test_a_stretch_that_is_too_short_goes_or_gets_another_beside_it():
    memory = Memory()
    first = memory.empty((FLOATS,))
    larger = memory.empty((30 * FLOATS,))
    assert [stretch.used for stretch in memory.stretches] == [first.nbytes, larger.nbytes]
    del first, larger
    largest = memory.empty((300 * FLOATS,))
    assert [stretch.used for stretch in memory.stretches] == [largest.nbytes]


def test_where_addresses_are_few_a_stretch_is_no_longer_than_its_first_array(monkeypatch):
    monkeypatch.setattr("nst_manual.engines.cpu.memory.is_room_for", lambda count: False)
    memory = Memory()
    arrays = [memory.empty((size * FLOATS,)) for size in (2, 3, 1)]
    assert [stretch.size for stretch in memory.stretches] == [array.nbytes for array in arrays]


MANY = "conv1_1,conv1_2,conv2_1,conv2_2,conv3_1,conv3_4,conv4_1,conv4_4,conv5_1"


@pytest.mark.parametrize(
    ("size", "chosen"),
    [
        ((96, 128), {}),
        ((131, 77), {"pooling": "max"}),
        ((150, 112), {}),
        ((156, 132), {}),  # odd behind the second pooling
        ((136, 120), {"style_layers": MANY}),
        ((96, 128), {"pooling": "l2"}),
    ],
    ids=str,
)
def test_evaluations_take_no_more_than_is_alive_at_once(monkeypatch, size, chosen):
    alive = most = 0
    empty = Memory.empty

    def watched(memory, shape):
        nonlocal alive, most
        array = empty(memory, shape)
        if array.nbytes >= SMALL:
            whole, count = array, array.nbytes
            while isinstance(whole.base, np.ndarray):
                whole = whole.base
            alive += count
            most = max(most, alive)
            weakref.finalize(whole, gone, count)
        return array

    def gone(count):
        nonlocal alive
        alive -= count

    monkeypatch.setattr(Memory, "empty", watched)
    engine, settings = open_engine("cpu"), Settings(**chosen)
    steps = steps_to(settings.taps())
    network = Network.build(engine, random_filters(steps, 1), MEAN, steps, settings.pooling, settings.taps())
    picture = np.asarray(grains(size[1], size[0]), float)
    objective = make_objective(settings, network, picture, [Style(picture[::-1])])
    for _ in range(2):
        objective(picture)
    (stretch,) = engine.workers.memory.stretches
    assert stretch.used == most
