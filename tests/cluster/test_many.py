"""Many pictures on a cluster: the same as on one machine, whatever happens to its workers."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from batches import QUICK, WORDS, written_weights
from picture_files import grains
from PIL import Image

from nst_manual import NSTError, Result, transfer_many
from nst_manual.cli.main import main
from nst_manual.cluster import connection
from nst_manual.cluster.connection import Fit

NO_DASK = "needs Dask: `python -m pip install '.[cluster]'`"
distributed = pytest.importorskip("distributed", reason=NO_DASK)
pool = pytest.importorskip("nst_manual.cluster.pool", reason=NO_DASK)


@pytest.fixture
def weights(tmp_path):
    return written_weights(tmp_path)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    names = [folder / name for name in ("a.png", "b.png", "c.png", "x.png", "y.png")]
    for number, name in enumerate(names):
        grains(30 + number, 26).save(name)
    return names[:3], names[3:]


def test_the_pictures_are_those_of_one_machine_bit_for_bit(tmp_path, pictures, weights, cluster):
    contents, styles = pictures
    contents[1].write_bytes(b"junk")
    call = {"contents": contents, "styles": styles, "weights": weights, **QUICK}
    alone = {pair.number: pair for pair in transfer_many(**call, out_dir=tmp_path / "alone")}
    told = []
    pairs = transfer_many(
        **call, out_dir=tmp_path / "out", cluster=cluster, callback=lambda pair, record: told.append((pair, record))
    )
    spread = {pair.number: pair for pair in pairs}
    assert sorted(spread) == sorted(alone)
    for number, pair in alone.items():
        if isinstance(pair.result, Result):
            found = spread[number].result
            np.testing.assert_array_equal(found.pixels, pair.result.pixels)
            assert [record.loss for record in found.trace] == [record.loss for record in pair.result.trace]
            assert [record.iteration for of, record in told if of.number == number] == [1, 2]
            with Image.open(tmp_path / "out" / pair.path.name) as one, Image.open(pair.path) as other:
                assert one.tobytes() == other.tobytes()
                assert json.loads(one.text["nst_manual"])["content"] == json.loads(other.text["nst_manual"])["content"]
        else:
            assert str(spread[number].result) == str(pair.result)
    call |= {"out_dir": tmp_path / "alone", "skip_existing": True, "cluster": cluster}
    assert sum(pair.result is None for pair in transfer_many(**call)) == 4


def test_each_worker_makes_its_network_and_a_styles_targets_once(pictures, weights, cluster, monkeypatch):
    counts = {"network": [], "targets": []}

    def counting(place, calls):
        room, name = place.rsplit(".", 1)
        original = getattr(sys.modules[room], name)
        monkeypatch.setattr(place, lambda *a, **k: (calls.append(threading.get_ident()), original(*a, **k))[1])

    counting("nst_manual.batch.build_network", counts["network"])
    counting("nst_manual.objective.style_targets", counts["targets"])
    contents, styles = pictures
    pairs = list(transfer_many(contents, styles, weights=weights, cluster=cluster, **{**QUICK, "scales": "off"}))
    assert len(pairs) == 6
    assert len(counts["network"]) <= 2
    assert len(counts["targets"]) <= 2 * 2  # workers × styles, for the contents' sizes don't matter to them


def test_a_cancelled_batch_saves_what_is_in_progress(tmp_path, pictures, weights, cluster):
    contents, styles = pictures
    cancel = threading.Event()
    options = {**QUICK, "iterations": 100_000, "optimizer": "adam"}
    pairs = transfer_many(
        contents,
        styles,
        out_dir=tmp_path / "out",
        weights=weights,
        cluster=cluster,
        callback=lambda pair, record: cancel.set(),
        cancel=cancel,
        **options,
    )
    assert {pair.result.stopped for pair in pairs} == {"interrupted"}
    assert 1 <= len(list((tmp_path / "out").iterdir())) <= 2


def test_a_callback_may_end_one_picture(pictures, weights, cluster):
    contents, styles = pictures

    def callback(pair, record):
        if pair.number == 1:
            raise StopIteration

    options = {**QUICK, "iterations": 300, "optimizer": "adam"}
    pairs = {
        p.number: p.result
        for p in transfer_many(contents[0], styles, weights=weights, cluster=cluster, callback=callback, **options)
    }
    assert pairs[1].stopped == "interrupted"
    assert pairs[2].stopped == "iterations"


def test_a_picture_leaves_the_clusters_memory_when_no_other_pair_needs_it(pictures, weights, cluster, monkeypatch):
    contents, styles = pictures
    styles[-1].write_bytes(b"junk")  # the last of each row
    forgotten = []
    original = pool.Pool.forget
    monkeypatch.setattr(pool.Pool, "forget", lambda self, name: (forgotten.append(name), original(self, name)))
    pairs = list(transfer_many(contents[:2], styles, weights=weights, cluster=cluster, **QUICK))
    assert sum(isinstance(pair.result, Result) for pair in pairs) == 2
    assert sorted(set(forgotten)) == ["content0", "content1", "style0", "style1"]


def test_a_batch_without_workers_says_that_it_waits_for_one(pictures, weights, cluster, monkeypatch, caplog):
    contents, styles = pictures
    monkeypatch.setattr(pool, "PATIENCE", 0.0)
    monkeypatch.setattr(pool, "LOOK", 0.01)
    original, looks = Fit.there, []

    def there(self):
        looks.append(0)
        return original(self) if len(looks) > 5 else []

    monkeypatch.setattr(Fit, "there", there)
    [pair] = transfer_many(contents[0], styles[0], weights=weights, cluster=cluster, **QUICK)
    assert isinstance(pair.result, Result)
    assert caplog.text.count("no worker is left; waiting for one") == 1


MISTAKES = {
    "no scheduler": (
        {"cluster": "tcp://127.0.0.1:1"},
        r"no Dask scheduler answers at tcp://127.0.0.1:1 .*dask sched",
    ),
    "a file of something else": ({"cluster": "pictures/a.png"}, "pictures/a.png is not a scheduler's file"),
    "previews": ({"preview_every": 1}, "--preview-every needs the pictures in progress"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_before_the_work(tmp_path, pictures, weights, cluster, monkeypatch, mistake):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connection, "PATIENCE", 0.5)
    options, sentence = MISTAKES[mistake]
    contents, styles = pictures
    with pytest.raises(NSTError, match=sentence):
        transfer_many(
            contents, styles, **{"out_dir": "out", "weights": weights, "cluster": cluster, **QUICK, **options}
        )
    assert not Path("out").exists()


def test_workers_must_have_this_version_and_the_same_weights(pictures, weights, cluster, monkeypatch):
    contents, styles = pictures

    def refused(**wrong):
        for name, value in wrong.items():
            monkeypatch.setattr(connection, name, value)
        with pytest.raises(NSTError) as error:
            transfer_many(contents, styles, weights=weights, cluster=cluster, **QUICK)
        monkeypatch.undo()
        return str(error.value)

    about = connection._about()
    assert "has nst_manual" in refused(_by_value=lambda function: lambda: {**about, "version": "0.0.9"})
    assert "has no nst_manual, and here is" in refused(_by_value=lambda function: lambda: {**about, "version": None})
    assert "runs Python" in refused(_about=lambda: {**about, "python": "3.99"})
    own = iter(["ours"])
    theirs = lambda choice: next(own, None)  # noqa: E731
    assert "has no weights for --weights" in refused(weights_of=theirs)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL and no SIGINT for one other process")
def test_a_killed_worker_costs_no_picture_and_nobody_else_can_reach_the_cluster(tmp_path, pictures, weights):
    contents, styles = pictures
    words = ["transfer", str(contents[0]), *map(str, styles), "--out-dir", str(tmp_path / "out"), "--weights", weights]
    words += [*WORDS, "--iterations", "60", "--optimizer", "adam", "--cluster", "local:2", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "nst_manual", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if json.loads(line).get("iteration") == 10:
            break
    import psutil  # which comes with Dask

    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    places = {place.laddr.ip for one in family for place in one.net_connections("tcp") if place.status == "LISTEN"}
    assert places == {"127.0.0.1"}
    workers = [one for one in family if "spawn_main" in " ".join(one.cmdline())]
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGINT)  # as Ctrl-C in a terminal does
    os.kill(workers[0].pid, signal.SIGKILL)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["done"] == 2
    for style in styles:
        name = f"a_{style.stem}.png"
        assert (
            main(
                [
                    "transfer",
                    str(contents[0]),
                    str(style),
                    "-o",
                    str(tmp_path / name),
                    "--weights",
                    weights,
                    *WORDS,
                    "--iterations",
                    "60",
                    "--optimizer",
                    "adam",
                    "--quiet",
                ]
            )
            == 0
        )
        with Image.open(tmp_path / name) as one, Image.open(tmp_path / "out" / name) as other:
            assert one.tobytes() == other.tobytes()
