"""The server without a browser: from two pictures to a downloaded result, and what must not be lost or let in."""

import asyncio
import contextlib
import http.client
import io
import json
import sys
import time

import numpy as np
import pytest
from page_server import QUICK
from PIL import Image

from nst_manual import NSTError
from nst_manual.pictures.reading import read_recipe


def order(server, pictures, **options):
    content, style = (server.post(f"/pictures?name={name}", data) for name, data in zip("cs", pictures, strict=True))
    styles = [{"picture": style["id"]}]
    return {"content": content["id"], "styles": styles, "options": QUICK | options}


def test_from_two_pictures_to_a_result_in_every_form(serve, pictures):
    server = serve()
    run = server.post("/runs", order(server, pictures, strength=60), 201)
    done = server.wait(run, "done", "failed")
    assert (done["state"], done["last"]["iteration"]) == ("done", 3)
    records = [record for record in server.get(f"/runs/{run['id']}/records") if "iteration" in record]
    assert [record["iteration"] for record in records] == [1, 2, 3]
    assert {"loss", "terms", "left", "gradient"} <= set(records[0])
    for name, kind, size in (("result.png", "PNG", (32, 24)), ("animation.webp", "WEBP", (32, 24))):
        answer, data = server.ask("GET", f"/runs/{run['id']}/download/{name}")
        with Image.open(io.BytesIO(data)) as picture:
            assert (picture.format, picture.size) == (kind, size)
        assert answer.getheader("Content-Disposition") == f'attachment; filename="c_s.{name.partition(".")[2]}"'
        if kind == "PNG":
            recipe = json.loads(read_recipe(data))
            assert (recipe["settings"]["strength"], recipe["settings"]["bits"]) == (60, 8)
            assert recipe["content"]["name"] == "c"
            assert str(server.folder) not in json.dumps(recipe)
    _, data = server.ask("GET", f"/runs/{run['id']}/download/result.tif")
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.tag_v2[258] == (16, 16, 16)
    assert "--strength 60" in server.get(f"/runs/{run['id']}/recipe")["command"]

    again = server.post(f"/runs/{run['id']}/again", {"start": "begin"}, 201)
    larger = {"start": "picture", "kind": "continued", "changes": {"options": {"size": 48}}}
    larger = server.post(f"/runs/{run['id']}/again", larger, 201)
    server.wait(again, "done", "failed")
    assert server.wait(larger, "done", "failed")["state"] == "done"
    recipe = server.get(f"/runs/{larger['id']}/recipe")
    assert (recipe["whole"], recipe["needs"]) == (True, ["start.png"])
    first, second, grown = (
        Image.open(io.BytesIO(server.ask("GET", f"/runs/{one['id']}/download/result.png")[1]))
        for one in (run, again, larger)
    )
    np.testing.assert_array_equal(np.asarray(first), np.asarray(second))
    assert grown.size == (48, 36)

    study = server.post(f"/runs/{run['id']}/study", {"where": "content"})
    assert {term["name"] for term in study["terms"]} == {"total", "content:conv1_1", "style:conv1_1", "tv"}
    assert "conv1_1" in {layer["name"] for layer in study["layers"]}
    assert study["cosines"]["total"]["total"] == pytest.approx(1)
    assert "another tab" in server.ask("GET", f"/runs/{run['id']}/study/pixel?row=3&column=5&made=other")[1].decode()
    pixel = server.get(f"/runs/{run['id']}/study/pixel?row=3&column=5")
    assert pixel["fields"] == [{"layer": "conv1_1", "box": [2, 4, 4, 6]}]
    server.ask("DELETE", f"/runs/{run['id']}")
    assert len(server.get("/about")["runs"]) == 2


def test_pause_resume_restart_and_ctrl_c_lose_nothing(serve, pictures):
    server = serve()
    asked = order(server, pictures, iterations=100_000, optimizer="adam")
    run, waiting = server.post("/runs", asked, 201), server.post("/runs", asked, 201)
    server.wait(run, 5)
    assert server.state(waiting)["state"] == "queued"
    study = server.post(f"/runs/{run['id']}/study", {"where": "now"})  # while it runs
    assert (study["width"], study["height"]) == (32, 24)
    assert server.state(run)["state"] == "running"
    server.post(f"/runs/{waiting['id']}/pause", {})
    server.post(f"/runs/{run['id']}/pause", {})
    paused = server.wait(run, "paused")
    assert paused["result"]
    assert not server.get(f"/runs/{run['id']}/recipe")["whole"]
    server.post(f"/runs/{run['id']}/resume", {})
    before = paused["last"]["iteration"]
    server.wait(run, before + 5)
    _, said = server.close()
    assert server.process.returncode == 0, said

    server = serve()
    saved = server.state(run)
    assert (saved["state"], saved["result"]) == ("paused", True)
    assert saved["last"]["iteration"] >= before + 5
    lines = (server.folder / "runs" / run["id"] / "records.jsonl").read_text().splitlines()
    records = [record["iteration"] for record in map(json.loads, lines) if "iteration" in record]
    assert records == list(range(1, len(records) + 1))
    shown = [record["iteration"] for record in server.get(f"/runs/{run['id']}/records") if "iteration" in record]
    assert shown == sorted(set(shown))  # of a long run, not all
    assert shown[-1] == records[-1]
    server.post(f"/runs/{run['id']}/resume", {})
    server.wait(run, saved["last"]["iteration"] + 1)
    server.process.kill()  # the run notices, and saves its picture
    server.process.communicate()
    records = server.folder / "runs" / run["id"] / "records.jsonl"
    until = time.monotonic() + 30
    while "stopped" not in records.read_text().splitlines()[-1] and time.monotonic() < until:
        time.sleep(0.1)

    server = serve()
    assert json.loads(records.read_text().splitlines()[-1])["stopped"] == "interrupted"
    assert server.state(run)["state"] == "paused"
    server.post(f"/runs/{run['id']}/resume", {})
    server.wait(run, server.state(run)["last"]["iteration"] + 1)
    changed = {"start": "picture", "kind": "continued", "changes": {"options": {"iterations": 2, "strength": 90}}}
    new = server.post(f"/runs/{run['id']}/again", changed, 201)
    assert server.wait(new, "done", "failed")["state"] == "done"
    assert server.state(run)["state"] == "stopped"


def test_what_is_wrong_is_said_in_one_sentence(serve, pictures):
    server = serve()
    good = order(server, pictures)
    refused = server.post("/pictures?name=../../x.png", b"no picture at all", 400)["error"]
    assert refused == "x.png can't be read as a picture: it is broken or its format is unknown"
    whole = pictures[0]
    assert "x.png" in server.post("/pictures?name=x.png", whole[: len(whole) // 2], 400)["error"]
    assert not [path for path in (server.folder / "pictures").iterdir() if path.name.endswith(".upload")]
    for changes, words in (
        ({"options": {"weights": "/etc/passwd"}}, "weights must be one of auto"),
        ({"options": {"init": "/etc/passwd"}}, "init must be one of content"),
        ({"options": {"output": "x.png"}}, "no option output"),
        ({"options": {"strength": 1000}}, "strength must be a number from 0 to 100"),
        ({"options": {"size": 10**6}}, "size must be a number up to"),
        ({"content": "../../etc/passwd"}, "no such picture"),
        ({"styles": []}, "no style picture"),
        ({"styles": [{"picture": good["content"], "share": "x"}]}, "share must be a number"),
    ):
        assert words in server.post("/runs", good | changes, 400)["error"]
    run = server.post("/runs", good, 201)
    assert "must be an object" in server.post(f"/runs/{run['id']}/again", {"changes": {"options": 3}}, 400)["error"]
    assert "repeated" in server.post(f"/runs/{run['id']}/again", {"start": "elsewhere"}, 400)["error"]
    assert "paused, stopped or resumed" in server.post(f"/runs/{run['id']}/dance", {}, 400)["error"]
    assert "not JSON" in server.post("/runs", b"{", 400)["error"]
    for path in ("/runs/..%2f..%2fx/records", "/runs/20200101-000000-0000/recipe", "/static/..%2fserver.py"):
        assert server.ask("GET", path)[0].status in (400, 404)
    run = server.post("/runs", good | {"options": QUICK | {"style_layers": "conv5_1", "size": 8}}, 201)
    failed = server.wait(run, "failed", "done")
    assert "conv5_1 needs at least 16" in failed["message"]
    assert server.ask("GET", "/about", cookie="x=y")[0].status == 403


def test_masks_reach_the_run(serve, pictures):
    server = serve()
    asked = order(server, pictures)
    half = io.BytesIO()
    Image.fromarray(np.repeat(np.uint8([[0] * 32 + [255] * 32]), 48, 0)).save(half, "PNG")
    mask = server.post("/pictures?name=mask.png", half.getvalue())
    asked["styles"] = [asked["styles"][0] | {"where": mask["id"]}, {"picture": asked["content"], "share": 2}]
    run = server.post("/runs", asked, 201)
    assert server.wait(run, "done", "failed")["state"] == "done"
    terms = server.get(f"/runs/{run['id']}/records")[0]["terms"]
    assert {"style1:conv1_1", "style2:conv1_1"} <= set(terms)


def test_two_servers_do_not_share_a_folder(serve):
    server = serve()
    with pytest.raises(AssertionError, match="another page is using"):
        serve()
    server.close()


def test_the_proof_comes_row_by_row_and_ctrl_c_does_not_wait_for_it(serve):
    server = serve()
    with contextlib.closing(http.client.HTTPConnection(server.host, timeout=120)) as connection:
        connection.request("POST", "/check", "{}", {"Cookie": server.cookie, "Origin": f"http://{server.host}"})
        answer = connection.getresponse()
        assert json.loads(answer.readline())["passed"]
        assert "already, in another tab" in server.post("/check", {}, 400)["error"]
        assert "Traceback" not in server.close()[1]
        assert "before it was done" in answer.read().decode().splitlines()[-1]


def test_ctrl_c_does_not_wait_for_gradients(tmp_path):
    pytest.importorskip("starlette")
    from nst_manual.page.server import Page

    async def close():
        closing = []
        page = Page(tmp_path / "page", lambda: bool(closing))
        async with page.app().router.lifespan_context(None):
            work = asyncio.create_task(page.student(time.sleep, 60))
            await asyncio.sleep(0)
            closing.append(True)
            await asyncio.wait_for(work, 30)

    with pytest.raises(NSTError, match="its process ended unexpectedly"):
        asyncio.run(close())


@pytest.mark.parametrize(("row", "code"), [('{"passed": true}\n', 9), ('{"passed": true}\n', 1), ('{"pas', 9)])
def test_a_proof_that_is_cut_short_does_not_pass(tmp_path, monkeypatch, row, code):
    pytest.importorskip("starlette")
    from nst_manual.page import downloads
    from nst_manual.page.server import Page

    async def cut(environment):
        words = [sys.executable, "-c", f"import os; os.write(1, {row!r}.encode()); os._exit({code})"]
        return await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)

    async def rows():
        answer = await Page(tmp_path / "page", lambda: False).check(None)
        return [json.loads(line) async for line in answer.body_iterator if line.strip()]

    monkeypatch.setattr(downloads, "proof", cut)
    assert "before it was done" in asyncio.run(rows())[-1]["error"]
