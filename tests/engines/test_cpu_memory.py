"""The memory for feature maps: arrays never share it, give it back when they go, and need no more than is alive."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from picture_files import grains

from nst_manual.engines import open_engine
from nst_manual.engines.cpu.first_layer import FirstLayer
from nst_manual.engines.cpu.memory import SMALL, STEP, Memory, aligned
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


def test_what_is_small_takes_no_piece():
    memory = Memory()
    memory.empty((FLOATS - 1,))
    assert not memory.pieces


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
    assert len(memory.pieces) == 2
    del part
    assert memory.empty((4 * FLOATS,)).ctypes.data == address


def test_each_thread_has_its_own():
    memory = Memory()
    mine = memory.empty((4 * FLOATS,))
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(lambda: memory.pieces).result()
        other = pool.submit(memory.empty, mine.shape).result()
    assert [piece.size for piece in memory.pieces] == [mine.nbytes]
    assert not np.shares_memory(mine, other)


def test_small_ones_share_a_piece():
    memory = Memory()
    memory.empty((4 * FLOATS,))
    quarters = [memory.empty((FLOATS,)) for _ in range(4)]
    assert len(memory.pieces) == 1
    assert len({array.ctypes.data for array in quarters}) == 4


def test_what_is_free_but_too_small_goes():
    memory = Memory()
    memory.empty((FLOATS,))
    larger = memory.empty((3 * FLOATS,))
    assert [piece.size for piece in memory.pieces] == [larger.nbytes]


def test_room_in_pieces_is_no_reason_for_more():
    memory = Memory()
    memory.empty((4 * FLOATS,))
    first, second, third = (memory.empty((FLOATS,)) for _ in range(3))
    del first
    outside = memory.empty((2 * FLOATS,))  # there is one before the second and one behind the third
    (piece,) = memory.pieces
    places = [place.array() for place in piece.places]
    assert not any(np.shares_memory(outside, array) for array in places if array is not None)
    assert not np.shares_memory(second, third)


@pytest.mark.parametrize(
    ("size", "pooling"), [((96, 128), "avg"), ((131, 77), "max"), ((150, 112), "avg"), ((96, 128), "l2")]
)
def test_evaluations_take_no_more_than_is_alive_at_once(monkeypatch, size, pooling):
    most = 0
    empty = Memory.empty

    def watched(memory, shape):
        nonlocal most
        array = empty(memory, shape)
        alive = sum(place.stop - place.start for piece in memory.pieces for place in piece.places)
        most = max(most, alive)
        return array

    engine = open_engine("cpu")
    steps = steps_to("conv5_1")
    network = Network.build(engine, random_filters(steps, 1), MEAN, steps, pooling)
    picture = np.asarray(grains(size[1], size[0]), float)
    objective = make_objective(Settings(pooling=pooling), network, picture, [Style(picture[::-1])])
    objective(picture)
    memory = engine.workers.memory
    pieces = list(memory.pieces)
    monkeypatch.setattr(Memory, "empty", watched)
    objective(picture)
    assert memory.pieces == pieces
    assert sum(piece.size for piece in pieces) <= most + 2 * STEP
