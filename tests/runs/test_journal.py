"""What a run writes beside its picture, and that nothing of it ends the run."""

import csv
import logging
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from records import run

from nst_manual.errors import NSTError
from nst_manual.optimise.records import no_image
from nst_manual.pictures.writing import save_image
from nst_manual.runs import journal as room
from nst_manual.runs.journal import Journal
from nst_manual.runs.traces import Trace, load_trace
from nst_manual.settings import Run


@pytest.fixture
def journal(tmp_path):
    def make(write=save_image, **asked):
        paths = {name: tmp_path / asked[name] for name in ("output", "trace", "plot") if name in asked}
        return Journal(Run(**asked | paths), write)

    return make


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(room, "time", made)
    return made


def test_nothing_asked_for_is_nothing_written(tmp_path, journal):
    watched = journal(output="out.png")
    watched.begin()
    for record in run():
        watched(record)
    assert watched.finish("iterations", "all done") == []
    assert os.listdir(tmp_path) == []


def test_the_trace_follows_the_run_and_tells_its_end(tmp_path, journal):
    watched = journal(trace="trace.csv")
    watched.begin()
    records = run()
    for k, record in enumerate(records, 1):
        watched(record)
        assert len(load_trace(tmp_path / "trace.csv")) == k
    assert watched.finish("time limit", "the time\nis up") == []
    trace = load_trace(tmp_path / "trace.csv")
    assert (trace.stopped, trace.message) == ("time limit", "the time is up")
    assert np.array_equal(trace["loss"], [record.loss for record in records])


def test_a_resumed_runs_trace_has_its_earlier_part(tmp_path, journal):
    (tmp_path / "trace.csv").write_text("of the killed run, which came farther than its checkpoint\n")
    watched = journal(trace="trace.csv")
    records = run()
    watched.begin(records[:7])
    for record in records[7:]:
        watched(record)
    watched.finish("iterations", "")
    assert load_trace(tmp_path / "trace.csv")["iteration"].tolist() == list(range(1, 13))


def test_numbered_pictures_lie_beside_the_result(tmp_path, journal):
    watched = journal(output="out.png", save_every=5)
    watched.begin()
    for k, record in enumerate(run(), 1):
        watched(type(record)(**{**vars(record), "image": lambda k=k: np.full((3, 4, 3), float(k))}))
    assert sorted(os.listdir(tmp_path)) == ["out_000005.png", "out_000010.png"]
    with Image.open(tmp_path / "out_000010.png") as picture:
        assert picture.getpixel((0, 0)) == (10, 10, 10)


def test_a_preview_is_replaced_after_some_seconds_and_goes_in_the_end(tmp_path, journal, clock):
    written = []

    def write(pixels, path):
        clock.now += 3  # writing takes its time, and the next preview waits from its end
        written.append(path.name)
        save_image(pixels, path)

    watched = journal(output="out.jpg", preview_every=10.0, write=write)
    watched.begin()
    iterations = []
    for record in run():
        clock.now += 4
        before = len(written)
        watched(record)
        if len(written) > before:
            iterations.append(record.iteration)
    assert iterations == [3, 6, 9, 12]
    assert set(written) == {"out.preview.jpg"}
    assert os.listdir(tmp_path) == ["out.preview.jpg"]
    watched.finish("iterations", "", saved=False)
    assert os.listdir(tmp_path) == ["out.preview.jpg"]  # the only picture there is
    watched.finish("iterations", "")
    assert os.listdir(tmp_path) == []


def test_the_image_is_only_made_when_it_is_written(journal):
    def image():
        raise AssertionError("costs time")

    watched = journal(output="out.png", save_every=100, preview_every=3600.0)
    watched.begin()
    for record in run(image=image):
        watched(record)
    assert all(record.image is no_image for record in watched.records)  # nor is it kept


@pytest.mark.parametrize("name", ["plot.png", "plot.svg"])
def test_the_plot_is_drawn_at_the_end(tmp_path, journal, name):
    watched = journal(plot=name)
    watched.begin(run()[:6])
    for record in run()[6:]:
        watched(record)
    assert os.listdir(tmp_path) == []
    assert watched.finish("iterations", "") == []
    assert os.listdir(tmp_path) == [name]


def test_a_folder_that_vanishes_does_not_end_the_run(tmp_path, journal, caplog):
    (tmp_path / "folder").mkdir()
    watched = journal(
        output="folder/out.png",
        trace="folder/trace.csv",
        plot="folder/plot.svg",
        save_every=2,
        preview_every=0.0,
    )
    records = run()
    with caplog.at_level(logging.WARNING):
        watched.begin()
        watched(records[0])
        shutil.rmtree(tmp_path / "folder")
        for record in records[1:8]:
            watched(record)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3  # each is told once, not at each iteration
    for what in ("the trace", "the preview", "the picture of this iteration"):
        assert sum(message.endswith(f"; the run goes on without {what}") for message in messages) == 1
    (tmp_path / "folder").mkdir()
    for record in records[8:]:
        watched(record)
    assert watched.finish("iterations", "") == []
    assert sorted(os.listdir(tmp_path / "folder")) == ["out_000010.png", "out_000012.png", "plot.svg", "trace.csv"]
    trace = load_trace(tmp_path / "folder" / "trace.csv")
    assert np.array_equal(trace["loss"], Trace.of(records)["loss"])  # nothing is missing


def test_what_is_not_there_in_the_end_is_told(tmp_path, journal):
    (tmp_path / "folder").mkdir()
    watched = journal(output="folder/out.png", trace="folder/trace.csv", plot="folder/plot.svg", save_every=12)
    watched.begin()
    shutil.rmtree(tmp_path / "folder")
    for record in run():
        watched(record)
    missing = watched.finish("iterations", "")
    assert [sentence.partition(":")[0] for sentence in missing] == [
        "the trace",
        "the picture of this iteration",
        "the plot",
    ]


def test_a_full_disk_leaves_whole_lines(tmp_path, journal, monkeypatch):
    """A device of 2 kB, filled by half a line."""
    watched = journal(trace="trace.csv")
    records = run()
    watched.begin()
    real = open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.open", lambda *a, **k: Full(real(*a, **k)) if a[1] == "rb+" else real(*a, **k))
    watched(records[0])
    monkeypatch.undo()
    assert "No space left" in watched.failing["the trace"]
    for record in records[1:]:
        watched(record)
    assert watched.finish("iterations", "") == []
    with open(tmp_path / "trace.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert len(rows) == 13


def test_too_little_memory_for_a_preview_does_not_end_the_run(journal, caplog):
    def image():
        raise MemoryError

    watched = journal(output="out.png", save_every=1)
    watched.begin()
    for record in run(image=image):
        watched(record)
    assert watched.finish("iterations", "") == ["the picture of this iteration: not enough memory"]
    assert [r.getMessage().partition(";")[0] for r in caplog.records] == ["not enough memory"]


def test_mistakes_of_our_own_are_not_hidden(journal):
    def write(pixels, path):
        raise ZeroDivisionError

    watched = journal(output="out.png", save_every=1, write=write)
    watched.begin()
    with pytest.raises(ZeroDivisionError):
        watched(run()[0])


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"trace": "trace.txt"}, "ends in .csv or .jsonl"),
        ({"trace": "no/trace.csv"}, "does not exist"),
        ({"plot": "plot.gif"}, "ends in .png or .svg"),
        ({"plot": "no/plot.png"}, "does not exist"),
        ({"save_every": 3}, "beside the result"),
        ({"preview_every": 3.0}, "beside the result"),
        ({"output": "no/out.png", "save_every": 3}, "does not exist"),
    ],
)
def test_what_cannot_be_written_is_found_out_before(journal, asked, sentence):
    with pytest.raises(NSTError, match=sentence):
        journal(**asked)


@pytest.mark.parametrize("there", ["out.preview.png", "out_000300.png", "trace.csv", "plot.svg"])
def test_files_of_an_earlier_run_are_replaced_only_if_asked_for(tmp_path, journal, there):
    for name in ("out.png", "out_mine.png", "other_000300.png", "out_000300.jpg"):
        (tmp_path / name).touch()
    watched = journal(output="out.png", trace="trace.csv", plot="plot.svg", save_every=5, preview_every=1.0)
    watched.check_new(overwrite=False)
    (tmp_path / there).touch()
    watched.check_new(overwrite=True)
    with pytest.raises(NSTError, match=f"{there} exists already"):
        watched.check_new(overwrite=False)
