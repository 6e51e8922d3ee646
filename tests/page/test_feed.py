"""What a run writes for the page, and that it never stands in the run's way."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from nst_manual.optimise import Record
from nst_manual.page import feed as module
from nst_manual.page.feed import Feed


def record(iteration, iterations=10_000):
    image = np.full((20, 30, 3), 99.0)
    terms = {"content:conv4_2": 1.0}
    return Record(iteration, iteration, math.inf, terms, 0.0, iterations=iterations, image=lambda: image)


def test_a_preview_comes_at_least_every_second_but_not_with_every_iteration(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    feed, shown = Feed(tmp_path), []
    monkeypatch.setattr(feed, "_show", lambda pixels: shown.append(now[0]))
    for iteration in range(1, 51):
        now[0] += 0.3
        feed(record(iteration))
    gaps = np.diff(shown)
    assert max(gaps) == pytest.approx(0.9)  # three iterations; a fourth would come too late
    assert len(shown) == 17
    now[0] += 7
    feed(record(51))
    assert shown[-1] == now[0]


def test_records_are_json_lines_and_frames_are_pictures(tmp_path):
    feed = Feed(tmp_path)
    for iteration in (1, 2, 3):
        feed(record(iteration, 3))
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3]
    assert lines[0]["loss"] is None
    assert lines[0]["terms"] == {"content:conv4_2": 1.0}
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == ["000001.jpg", "000002.jpg", "000003.jpg"]
    with Image.open(tmp_path / "preview.jpg") as picture:
        assert picture.size == (30, 20)


def test_the_exact_picture_comes_when_it_is_asked_for(tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(module._thread, "interrupt_main", lambda: ended.append(True))
    feed = Feed(tmp_path)
    feed(record(1))
    assert not (tmp_path / "now.png").exists()
    feed._obey(io.StringIO("picture\nnonsense\nstop\nmore\n"))
    assert ended == [True]
    feed(record(2))
    assert np.asarray(Image.open(tmp_path / "now.png")).mean() == 99


def test_a_lost_folder_does_not_end_the_run(tmp_path):
    Feed(tmp_path / "gone")(record(1))
