"""One picture in parts on several workers: the loss, gradient and steps are those of one process."""

import logging

import numpy as np
import pytest
from picture_files import grains

from nst_manual import transfer
from nst_manual.cluster import connection, grid
from nst_manual.cluster.arrived import settled_in_memory
from nst_manual.cluster.connection import Fit, WorkerLost, check_search
from nst_manual.engines import open_engine
from nst_manual.engines.cuda.paths import PATHS
from nst_manual.errors import Failure, NSTError
from nst_manual.losses import Moments
from nst_manual.objective import Style
from nst_manual.problem import build_network, make_objective, new_search
from nst_manual.proof.checks import MEAN, NARROW, random_filters
from nst_manual.runs import checkpoint, watch
from nst_manual.runs.checkpoint import Checkpoint, load_checkpoint
from nst_manual.settings import Run, Settings
from nst_manual.vgg import padded, steps_to
from nst_manual.weights import Weights

NO_DASK = "needs Dask: `python -m pip install '.[cluster]'`"
team = pytest.importorskip("nst_manual.cluster.team", reason=NO_DASK)
member = pytest.importorskip("nst_manual.cluster.member", reason=NO_DASK)
SIZE = (50, 83)
LAYERS = {"style_layers": "conv1_1,conv2_1,conv3_1", "content_layers": "conv3_2,pre:conv2_2"}
CASES = {
    "lbfgs": {"optimizer": "lbfgs"},
    "adam": {"optimizer": "adam"},
    "other terms": {"optimizer": "lbfgs", "style_loss": "transport", "preset": "crowsonkb", "laplacian_weight": 0.01},
    "max, no bounds": {"optimizer": "lbfgs", "pooling": "max", "bounds": False, "style_loss": "spread"},
    "no style": {"optimizer": "adam", "style_weight": 0.0, "tv_weight": 0.1},
}


@pytest.fixture
def client(cluster):
    from distributed import Client

    with Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Halos don't keep a part from being small; and the network is narrow."""
    monkeypatch.setattr(grid, "HALO", 0)
    monkeypatch.setattr(Settings, "steps", lambda self: padded(steps_to(self.taps(), NARROW), self.padding))


def both(client, rng, masks=False, tile="auto", **options):
    """The search of one process, and that of a team."""
    settings = Settings(**{"engine": "reference", "precision": "float64", **LAYERS, **options})
    weights = Weights(random_filters(settings.steps(), 1), MEAN, "oxford", "made here")
    content, start = rng.uniform(0, 255, (2, *SIZE, 3))
    image, region = rng.uniform(0, 255, (60, 41, 3)), rng.random(SIZE)
    styles = [Style(image)]
    if masks:
        styles = [Style(image, region=region), Style(image[::-1], region=1 - region, mask=rng.random((60, 41)))]
    network = build_network(settings, weights, open_engine(settings.engine, settings.precision))
    alone = new_search(settings, make_objective(settings, network, content, styles), start)
    members = team.Team(client, settings, Run(tile=tile), weights)
    return alone, members.search(content, styles, lambda: start, None, lambda function: function), members


def assert_same(alone, spread, most):
    for name in alone.arrays:
        one, other = getattr(alone, name), spread.fetched(name)
        if one.size and name != "free":
            np.testing.assert_allclose(other, one, rtol=0, atol=most * max(np.abs(one).max(), 1e-300), err_msg=name)
    assert spread.loss == pytest.approx(alone.loss, rel=most)
    assert spread.terms == pytest.approx(alone.terms, rel=most)
    assert list(spread.terms) == list(alone.terms)
    assert (spread.iteration, spread.evaluations) == (alone.iteration, alone.evaluations)


@pytest.mark.parametrize("case", CASES)
def test_an_evaluation_and_the_steps_after_it_are_those_of_one_process(client, rng, case):
    alone, spread, _ = both(client, rng, **CASES[case])
    assert len(spread.grid.parts) == 2
    alone.run(iterations=0)
    spread.run(iterations=0)
    singular = "preset" in CASES[case]  # nearly: their roots are known to half as many digits
    assert_same(alone, spread, 1e-7 if singular else 1e-12)
    one, other = alone.run(iterations=2), spread.run(iterations=2)
    assert_same(alone, spread, 1e-5 if singular else 1e-9)
    np.testing.assert_allclose(other.image, one.image, atol=1e-6)
    assert (one.stopped, one.message) == (other.stopped, other.message)


def test_regions_and_several_tiles_for_each_worker(client, rng):
    alone, spread, _ = both(client, rng, masks=True, tile=16, optimizer="lbfgs", style_loss="gram")
    alone.run(iterations=0)
    spread.run(iterations=0)
    assert_same(alone, spread, 1e-12)
    # And the state that a checkpoint keeps is that of one process.
    settings = spread.team.settings
    alone.run(iterations=3)
    spread.run(iterations=3)
    state = spread.state()
    again = type(alone).restored(alone.function, state)
    one, other = again.run(iterations=5), alone.run(iterations=5)
    np.testing.assert_allclose(one.image, other.image, atol=1e-5)
    assert settings.optimizer == state["rule"] == "lbfgs"


@pytest.mark.parametrize(
    ("path", "optimizer", "iterations"), [("plain", "lbfgs", 1), ("plain", "adam", 1), ("fused", "adam", 0)]
)
def test_members_on_gpus_do_the_same(client, rng, request, monkeypatch, path, optimizer, iterations):
    """On a stand-in for the GPU, on which no array of the host may meet one of the card."""
    cupy = request.getfixturevalue("cupy_on_host" if path == "fused" else "cupy_without_kernels")

    def engine(*arguments):
        return PATHS[path]("float32", cupy)

    monkeypatch.setattr("nst_manual.cluster.member.open_engine", engine)
    alone, spread, _ = both(client, rng, precision="float32", optimizer=optimizer)
    one, other = alone.run(iterations=iterations), spread.run(iterations=iterations)
    assert other.loss == pytest.approx(one.loss, rel=1e-4)
    np.testing.assert_allclose(other.image, one.image, atol=1e-2)
    assert len(spread.state()["best"]) == np.prod(SIZE) * 3


def test_a_team_goes_on_from_a_state_just_as_it_would_have(client, rng):
    _, spread, members = both(client, rng, optimizer="lbfgs")
    spread.run(iterations=2)
    state, content = spread.state(), np.random.default_rng(1234).uniform(0, 255, (2, *SIZE, 3))[0]
    style = np.random.default_rng(5).uniform(0, 255, (30, 30, 3))
    ends = []
    for _ in range(2):
        search = members.search(content, [Style(style)], None, state, lambda function: function)
        ends.append(search.run(iterations=5))
    np.testing.assert_array_equal(ends[0].image, ends[1].image)
    assert ends[0].loss == ends[1].loss
    assert ends[0].iterations == 5


def test_a_checkpoint_is_written_and_read_one_vector_at_a_time(client, rng, monkeypatch, tmp_path):
    _, spread, members = both(client, rng, optimizer="lbfgs")
    spread.run(iterations=3)
    state, moved, read = spread.state(), [], []

    def counting(owner, name, sizes):
        original = getattr(owner, name)

        def counted(*given):
            found = original(*given)
            sizes.append(found.size)
            return found

        monkeypatch.setattr(owner, name, counted)

    monkeypatch.setattr(checkpoint, "LARGE", 100)
    counting(team.TeamSearch, "fetched", moved)
    counting(checkpoint.Entry, "__getitem__", read)
    Checkpoint({}, [], [], 0, spread.kept(), []).save(tmp_path / "run.ckpt")
    assert max(moved) == np.prod(SIZE) * 3
    again = load_checkpoint(tmp_path / "run.ckpt").search
    for name in spread.arrays:
        np.testing.assert_array_equal(again[name][:].reshape(state[name].shape), state[name])
    read.clear()
    content, style = rng.uniform(0, 255, (*SIZE, 3)), Style(rng.uniform(0, 255, (30, 30, 3)))
    resumed = members.search(content, [style], None, again, lambda function: function)
    assert max(read) == max(np.prod(part.shape) for part in resumed.grid.parts)
    np.testing.assert_array_equal(resumed.fetched("rows"), state["rows"])


def test_what_an_evaluation_moves_is_counted_and_is_never_the_picture(client, rng, caplog):
    caplog.set_level(logging.INFO, "nst_manual")
    _, spread, _ = both(client, rng, optimizer="lbfgs", style_loss="gram")
    spread.run(iterations=0)
    assert f"{SIZE[1]}×{SIZE[0]} pixels in 2 parts; an evaluation moves" in caplog.text
    windows = spread.team.call("window_of", [(spread.grid, [*spread.team.settings.taps()], 8)] * 2)
    strips = sum(
        np.prod(seen.common(part).shape)
        for number, seen in enumerate(windows)
        for other, part in enumerate(spread.grid.parts)
        if other != number
    )
    matrices = sum(n + n * (n + 1) // 2 + 1 + n * (n + 1) // 2 for n in (6, 8, 8))
    table = (2 * spread.history + 3) * (spread.history + 2 + 3) if spread.bounds else (2 * spread.history + 3) * 3
    assert spread.moved_bytes == {
        "halos": 2 * 8 * strips,
        "moments": 8 * matrices,
        "numbers": 2 * 8 * (table + len(spread.terms) - 3),
    }
    assert 0 < strips < np.prod(SIZE) * 3


def test_what_cannot_be_spread_is_refused():
    refused = {"--optimizer l-bfgs-b works in one process": ({"optimizer": "l-bfgs-b"}, {})}
    refused["--history-bits 16 and"] = {"optimizer": "lbfgs", "history_bits": 16}, {}
    refused["--history-on disk are for one process"] = {}, {"history_on": "disk"}
    refused["--max-memory is for one process"] = {}, {"max_memory": "4G"}
    for sentence, (settings, run) in refused.items():
        with pytest.raises(NSTError, match=sentence):
            check_search(Settings(**settings), Run(**run))
    assert check_search(Settings(), Run()).optimizer == "lbfgs"


def test_a_lost_worker_costs_no_more_than_what_came_after_the_checkpoint(tmp_path, cluster, caplog, monkeypatch):
    caplog.set_level(logging.WARNING, "nst_manual")
    monkeypatch.setattr(team, "PATIENCE", 1.0)
    monkeypatch.setattr(team, "MOST_LOST", 1)  # in a row
    monkeypatch.setattr(watch, "SHARE", np.inf)  # a checkpoint after each iteration
    call = {"engine": "reference", "weights": "calibrated", "optimizer": "lbfgs", "scales": "32,48", "size": 48}
    call |= {"style_layers": "conv1_1,conv2_1", "content_layers": "conv2_2", "iterations": 6, "bounds": False}
    pictures = grains(48, 40), grains(30, 32)
    expected = transfer(*pictures, cluster=cluster, **call)
    losses = [iter([4, 8]), iter([3])]

    def losing(losses):
        """A team that loses a worker when those iterations are over."""
        at = next(losses, None)
        original = team.TeamSearch._iterated

        def iterated(self, image):
            nonlocal at
            reason = original(self, image)
            if at is not None and self.iteration == (at if at < 7 else at - 6):
                at = next(losses, None)
                self.team.members[0].abort("the worker is gone").result()
            return reason

        monkeypatch.setattr(team.TeamSearch, "_iterated", iterated)
        return original

    for number, lost in enumerate(losses):
        original = losing(lost)
        path = tmp_path / f"{number}.npz"
        result = transfer(*pictures, cluster=cluster, checkpoint=path, checkpoint_every=0.0, **call)
        monkeypatch.setattr(team.TeamSearch, "_iterated", original)
        np.testing.assert_array_equal(result.pixels, expected.pixels)
        assert [record.loss for record in result.trace] == [record.loss for record in expected.trace]
        assert [record.iteration for record in result.trace] == [*range(1, len(expected.trace) + 1)]
    assert caplog.text.count("a worker is gone") == 3
    # And without a cluster the run can be resumed just as well.
    again = transfer(*pictures, resume=tmp_path / "0.npz", **call)
    np.testing.assert_array_equal(again.pixels, expected.pixels)


def test_where_the_cluster_is_gone_the_last_checkpoint_is_the_picture(tmp_path, cluster, monkeypatch):
    call = {"engine": "reference", "weights": "calibrated", "optimizer": "lbfgs", "scales": "off", "size": 32}
    call |= {"style_layers": "conv1_1", "content_layers": "conv1_2", "iterations": 5, "cluster": cluster}
    pictures = grains(32, 32), grains(30, 32)

    def gone(self):
        return 0

    monkeypatch.setattr(team.Team, "_present", gone)
    monkeypatch.setattr(watch, "SHARE", np.inf)
    original = team.TeamSearch._iterated

    def iterated(self, image):
        if self.iteration == 3:
            self.team.members[0].abort("the worker is gone").result()
        return original(self, image)

    monkeypatch.setattr(team.TeamSearch, "_iterated", iterated)
    result = transfer(*pictures, checkpoint=tmp_path / "c.npz", checkpoint_every=0.0, **call)
    assert result.stopped == "cluster lost"
    assert "answer any more; the picture is that of the last checkpoint, and --resume" in result.message
    assert result.loss < result.trace[0].loss
    with pytest.raises(Failure, match="answer any more, and there is no picture yet: start the run again"):
        transfer(*pictures, **call)
    monkeypatch.undo()
    assert transfer(*pictures, resume=tmp_path / "c.npz", **call).stopped == "iterations"


def test_another_checkpoint_is_refused(tmp_path, cluster):
    call = {"engine": "reference", "weights": "calibrated", "size": 32, "iterations": 1, "scales": "off"}
    call |= {"style_layers": "conv1_1", "content_layers": "conv1_2", "cluster": cluster}
    pictures, path = (grains(32, 32), grains(30, 32)), tmp_path / "c.npz"
    transfer(*pictures, checkpoint=path, optimizer="adam", **call)
    arrays = dict(np.load(path))
    np.savez(tmp_path / "d.npz", **{**arrays, "first": arrays["first"][:-3]})
    with pytest.raises(NSTError, match="can't be resumed: it is damaged"):
        transfer(*pictures, resume=tmp_path / "d.npz", optimizer="adam", **call)


def test_arrays_from_other_machines_are_laid_where_numpy_would_lay_them():
    raw = np.frombuffer(bytearray(8 * 9 + 1), np.uint8)[1:]
    array = raw.view(np.float64)
    style = settled_in_memory([Style(array, targets={"conv1_1": Moments(array, array)})])[0]
    assert isinstance(style.targets["conv1_1"], Moments)
    for found in (style.image, *style.targets["conv1_1"], settled_in_memory({"a": (array, 1)})["a"][0]):
        assert found.ctypes.data % 16 == 0
        np.testing.assert_array_equal(found, array)


class Unreadable(MemoryError):
    """As CuPy's own where there is no CuPy."""

    def __reduce__(self):
        return _absent, ()


def _absent():
    raise ModuleNotFoundError("No module named 'cupy'")


def test_where_one_worker_has_too_little_memory_the_run_ends_with_the_best_picture(client, rng, monkeypatch):
    _, spread, _ = both(client, rng, optimizer="lbfgs")
    spread.run(iterations=1)
    original = member.Member._with_others

    def full(self, d_window):
        if self.index == 1:
            raise Unreadable("the card is full")
        return original(self, d_window)

    monkeypatch.setattr(member.Member, "_with_others", full)
    outcome = spread.run(iterations=5)
    assert outcome.stopped == "out of memory"
    assert "the card is full" in outcome.message
    assert outcome.loss == spread.best_loss
    assert np.isfinite(outcome.image).all()


def test_too_little_memory_before_the_first_evaluation_is_readable_too(client, rng, monkeypatch):
    def full(*given):
        raise Unreadable("the card is full")

    monkeypatch.setattr(member, "content_terms", full)
    with pytest.raises(MemoryError, match="the card is full"):
        both(client, rng, optimizer="lbfgs")


def test_two_teams_on_the_same_workers_do_not_wait_for_each_other(client, rng):
    teams = [both(client, rng, optimizer="adam")[2] for _ in range(2)]
    crossed = [(0, 0), (1, 1), (0, 1), (1, 0)]
    called = [teams[number].members[place].iterate(0, 0.0) for number, place in crossed]
    for one in called:
        assert one.result(timeout=60)["evaluations"] == 1


def test_workers_that_are_lost_again_and_again_are_what_the_last_sentence_says(cluster, monkeypatch):
    call = {"engine": "reference", "weights": "calibrated", "optimizer": "adam", "scales": "off", "size": 32}
    call |= {"style_layers": "conv1_1", "content_layers": "conv1_2", "iterations": 5, "cluster": cluster}
    monkeypatch.setattr(team, "PATIENCE", 0.5)
    monkeypatch.setattr(team, "MOST_LOST", 2)
    original = team.TeamSearch._iterated

    def iterated(self, image):
        if self.iteration == 1:
            self.team.members[0].abort("too little memory there").result()
        return original(self, image)

    monkeypatch.setattr(team.TeamSearch, "_iterated", iterated)
    with pytest.raises(Failure, match=r"3 workers of tcp://.* were lost without any progress, the last by: too little"):
        transfer(grains(32, 32), grains(30, 32), **call)


def test_a_call_that_nobody_answers_ends_when_its_worker_is_gone(client, rng, monkeypatch):
    _, _, members = both(client, rng, optimizer="adam")
    monkeypatch.setattr(team, "PATIENCE", 0.05)
    members.members[1] = Silent()
    with pytest.raises(WorkerLost, match=r"tcp://127\.0\.0\.1:9 went away"):
        members.call("numbers", [(), ()])


class Silent:
    """A member whose worker is gone, and Dask does not say so."""

    _address = "tcp://127.0.0.1:9"

    def numbers(self):
        return self

    def done(self):
        return False

    def result(self, timeout):
        raise TimeoutError

    def abort(self, why):
        pass


def test_a_worker_that_comes_later_is_looked_over(client, rng, monkeypatch, caplog):
    _, _, members = both(client, rng, optimizer="adam")
    first, second = members.fit.there()
    del members.fit.known[second]
    own = iter(["ours"])
    monkeypatch.setattr(connection, "weights_of", lambda choice: next(own, None))
    assert members.fit.there() == members.fit.there() == [first]
    assert caplog.text.count(f"the worker {second} has no weights") == 1
    members.gather()
    assert [one._address for one in members.members] == [first]
    monkeypatch.undo()
    assert Fit(client, members.settings).there() == [first, second]


def test_a_checkpoint_with_its_history_on_disk_names_the_way_out(client, rng):
    _, spread, members = both(client, rng, optimizer="lbfgs")
    spread.run(iterations=1)
    state = spread.state()
    state["rows"] = state["rows"].reshape(-1)
    with pytest.raises(NSTError, match="--history-on disk: resume it without --cluster"):
        members.search(rng.uniform(0, 255, (*SIZE, 3)), [Style(rng.uniform(0, 255, (30, 30, 3)))], None, state, None)
