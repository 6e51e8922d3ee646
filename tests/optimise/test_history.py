"""What lbfgs remembers, in 16 bits and in a file."""

from types import SimpleNamespace

import numpy as np
import pytest

from nst_manual.errors import NSTError
from nst_manual.optimise import Ended, Lbfgs
from nst_manual.optimise.history import Rows, Scratch
from nst_manual.runs import checkpoint
from nst_manual.runs.checkpoint import Checkpoint, load_checkpoint

SIZE = (70, 90, 3)  # two blocks and a remainder


def valley(image):
    """A narrow one, with some pixels beyond the range."""
    stretch = 1 + 50 * np.linspace(0, 1, image.size).reshape(image.shape) ** 2
    shifted = image - 300 * np.sin(np.arange(image.size)).reshape(image.shape)
    return float(np.sum(stretch * shifted**2, dtype=np.float64)), 2 * stretch.astype(image.dtype) * shifted, {}


@pytest.mark.parametrize("bounds", [False, True])
def test_on_disk_the_search_is_the_same_bit_for_bit(rng, tmp_path, bounds):
    start = rng.uniform(0, 255, SIZE).astype(np.float32)
    one, other = (Lbfgs(valley, start, bounds=bounds, history=4, folder=f).run(iterations=12) for f in (None, tmp_path))
    np.testing.assert_array_equal(one.image, other.image)
    assert other.loss == one.loss
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bounds", [False, True])
def test_with_16_bits_it_finds_a_loss_as_low(rng, bounds):
    start = rng.uniform(0, 255, SIZE).astype(np.float32)
    one, other = (Lbfgs(valley, start, bounds=bounds, history_bits=bits).run(iterations=30) for bits in (32, 16))
    first = valley(start)[0]
    assert other.loss - one.loss < 1e-3 * (first - one.loss)
    assert Lbfgs(valley, start, history_bits=16).rows.flat.nbytes == 2 * 20 * start.size


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_resumed_search_goes_on_bit_for_bit(rng, tmp_path, monkeypatch, bits, on_disk):
    """Through a checkpoint whose arrays are read in parts."""
    monkeypatch.setattr(checkpoint, "LARGE", 100)
    options = {"history": 3, "history_bits": bits, "bounds": True, **({"folder": tmp_path} if on_disk else {})}
    search = Lbfgs(valley, rng.uniform(0, 255, SIZE).astype(np.float32), **options)
    search.run(iterations=7)
    Checkpoint({}, [], [], 0, search.state(), []).save(tmp_path / "run.ckpt")
    state = load_checkpoint(tmp_path / "run.ckpt").search
    more = {"folder": tmp_path} if on_disk else {}
    resumed = Lbfgs.restored(valley, {**state, "image": np.asarray(state["image"])}, **more)
    one, other = search.run(iterations=14), resumed.run(iterations=14)
    np.testing.assert_array_equal(one.image, other.image)
    assert other.loss == one.loss


@pytest.mark.parametrize("bits", [16, 32])
def test_rows_are_what_was_put_there(rng, tmp_path, bits):
    one, other = rng.standard_normal((2, 1000)) * 10.0 ** rng.uniform(-6, 6, 1000)
    places = [slice(0, 600), slice(600, 1000)]
    for folder in (None, tmp_path):
        rows = Rows(one, 3, places, bits, folder)
        rows.put(1, one, other)
        rows.put(2, one, one)
        for place in places:
            found, expected = rows[:, place], (one - other)[place]
            most = np.abs(expected).max() / 65534 * 1.001 if bits == 16 else 0
            np.testing.assert_allclose(found[1], expected, rtol=0, atol=most)
            assert not found[0].any()
            assert not found[2].any()


@pytest.mark.parametrize("disk", ["full", "broken"])
def test_a_full_or_broken_disk_ends_the_search_with_the_best_picture(rng, tmp_path, monkeypatch, disk):
    file, stopped, said = {
        "full": (Full(), "disk full", "No space left on device"),
        "broken": (Broken(), "disk failed", "can't be read (Input/output error)"),
    }[disk]
    search = Lbfgs(valley, rng.uniform(0, 255, SIZE).astype(np.float32), history=4, folder=tmp_path)
    search.run(iterations=2)
    loss = search.best_loss
    monkeypatch.setattr(search.rows.file, "file", file)
    outcome = search.run(iterations=9)
    assert outcome.stopped == stopped
    assert said in outcome.message
    assert outcome.loss <= loss
    assert np.isfinite(outcome.image).all()


def test_too_little_room_is_said_before_the_work_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=79))
    with pytest.raises(NSTError, match=r"temporary file of .* is needed in .*, which has .* free: make room"):
        Scratch(20, np.float32, tmp_path)
    Scratch(19, np.float32, tmp_path)


class Full:
    """A file on a full disk."""

    def seek(self, offset):
        pass

    def readinto(self, view):
        view[...] = 0
        return len(view)

    def write(self, view):
        raise OSError(28, "No space left on device")


class Broken(Full):
    """A file on a broken disk."""

    def readinto(self, view):
        raise OSError(5, "Input/output error")


def test_a_file_that_is_cut_short_ends_the_search(tmp_path):
    scratch = Scratch(10, np.float32, tmp_path)
    scratch.file.truncate(8)
    with pytest.raises(Ended, match="cut short"):
        scratch.read(0, np.empty(10, np.float32))
