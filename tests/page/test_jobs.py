"""Runs that take turns, without their processes."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("starlette")

from page_server import png

from nst_manual import NSTError
from nst_manual.page import orders
from nst_manual.page.hub import Hub
from nst_manual.page.jobs import Jobs
from nst_manual.page.processes import why_ended
from nst_manual.page.store import Store, take_in
from nst_manual.pictures.demo import painting, scene


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "page")


@pytest.fixture
def order(store):
    ids = []
    for draw in (scene, painting):
        upload = store.pictures / ".x.upload"
        upload.write_bytes(png(draw))
        ids.append(take_in(upload, "x.png", store.pictures)["id"])
    return orders.checked({"content": ids[0], "styles": [{"picture": ids[1]}]}, store)


@pytest.fixture
def jobs(store, monkeypatch):
    """Jobs whose processes compute nothing and never end."""
    process = SimpleNamespace(poll=lambda: None, stdin=None)
    monkeypatch.setattr("nst_manual.page.jobs.program", lambda *given: process)
    return Jobs(store, Hub())


def test_a_changed_picture_goes_on_before_those_that_wait(jobs, order):
    running, waiting = jobs.add(order), jobs.add(order)
    jobs.step()
    changed = jobs.again(running["id"], {"options": {"strength": 90}}, "picture", "continued")
    jobs._ended(running, 130)
    with pytest.raises(NSTError, match="waits to go on from this picture"):
        jobs.delete(running["id"])
    jobs.step()
    assert [run["state"] for run in (running, waiting, changed)] == ["stopped", "queued", "running"]
    jobs.delete(running["id"])


@pytest.mark.parametrize(("code", "state", "kept"), [(0, "done", False), (1, "failed", True)])
def test_a_checkpoint_goes_only_when_the_picture_is_saved(jobs, order, code, state, kept):
    run = jobs.add(order)
    checkpoint = jobs.folder(run) / "run.ckpt"
    checkpoint.touch()
    jobs.ending = {"stopped": "iterations", "message": "all 45 iterations done"}
    jobs._ended(run, code)
    assert (run["state"], checkpoint.exists()) == (state, kept)
    if kept:
        jobs.resume(run["id"])


def test_a_process_that_the_system_ended_lacked_memory(tmp_path):
    assert "memory ran out" in why_ended(tmp_path / "said.txt", -9)


def test_a_folder_that_somebody_removed_ends_nothing(jobs, order):
    gone, next_one = jobs.add(order), jobs.add(order)
    shutil.rmtree(jobs.folder(gone))
    assert [run["id"] for run in jobs.summaries()] == [next_one["id"], gone["id"]]
    with pytest.raises(NSTError):  # `follow` says so, and goes on
        jobs.step()
    jobs.step()
    assert next_one["state"] == "running"
    jobs.delete(gone["id"])
    assert [run["id"] for run in jobs.summaries()] == [next_one["id"]]


def test_an_older_versions_run_is_refused_with_a_sentence(jobs, order):
    run = jobs.add(order | {"options": {"averaging": 1.0}})
    run["state"] = "paused"
    with pytest.raises(NSTError, match="no option averaging"):
        jobs.resume(run["id"])


def test_the_records_say_how_far_a_run_came_whose_server_was_killed(jobs, store, order):
    run = jobs.add(order)
    jobs._set(run, state="running")
    line = json.dumps({"iteration": 7, "width": 181, "height": 128})
    (jobs.folder(run) / "records.jsonl").write_text(f"{line}\n")
    found = Jobs(store, Hub()).run(run["id"])
    assert (found["state"], found["last"]["iteration"], found["last"]["width"]) == ("paused", 7, 181)


@pytest.mark.parametrize("count", [1, 2000, 2001, 2310, 2311])
def test_of_a_long_run_the_last_iteration_and_its_end_are_shown(jobs, order, count):
    run = jobs.add(order)
    lines = [{"iteration": number} for number in range(1, count + 1)] + [{"stopped": "interrupted"}]
    (jobs.folder(run) / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = jobs.records(run)
    assert (shown[0], shown[-2:]) == (lines[0], lines[-2:])
    assert len(shown) <= 2000 + 2
    numbers = [line["iteration"] for line in shown[:-1]]
    assert numbers == sorted(set(numbers))


def test_the_page_is_told_no_folder(jobs, store, order):
    run = jobs.add(order)
    jobs._set(run, message=f"{store.runs}/x/result.png can't be written")
    assert jobs.summary(run)["message"] == "runs/x/result.png can't be written"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_other_users_of_the_machine_see_nothing(store):
    for folder in (store.pictures, store.runs):
        assert folder.stat().st_mode & 0o077 == 0
