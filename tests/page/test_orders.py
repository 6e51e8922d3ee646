"""From what a browser asks for to a command."""

import json
import os

import pytest

pytest.importorskip("starlette")

from page_server import png

from nst_manual import NSTError
from nst_manual.cli.main import build_parser
from nst_manual.page import orders
from nst_manual.page.hub import Hub
from nst_manual.page.jobs import Jobs
from nst_manual.page.store import Store, plain_name, take_in
from nst_manual.pictures.demo import painting, scene


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "page")


def kept(store, data, name):
    upload = store.pictures / ".x.upload"
    upload.write_bytes(data)
    return take_in(upload, name, store.pictures)["id"]


@pytest.fixture
def order(store):
    style = {"picture": kept(store, png(painting), "--output=x.png")}
    return {"content": kept(store, png(scene), "photo.png"), "styles": [style], "options": {}}


def test_every_option_offered_makes_a_command_that_the_program_takes(store, order, tmp_path):
    for option in orders.offered():
        value = option["choices"][-1] if option["choices"] else {"bool": True, "str": "conv2_1"}.get(option["kind"], 1)
        run = {"order": orders.checked(order | {"options": {option["name"]: value}}, store)}
        parsed = build_parser().parse_args(orders.words(run, store, tmp_path))
        assert getattr(parsed, option["name"]) == value
        assert parsed.output == tmp_path / "result.png"


def test_a_pictures_name_is_never_an_option_or_a_path(store, order, tmp_path):
    parsed = build_parser().parse_args(orders.words({"order": orders.checked(order, store)}, store, tmp_path))
    assert parsed.style[0].endswith("output_x.png")
    for name in ("../../x.png", "..", ".hidden", "-o", "a\0b.png", "C:\\x\\y.png", "x" * 300 + ".png", "𝄞/é.tif", ""):
        plain = plain_name(name)
        assert plain
        assert plain[0] not in ".-"
        assert not set(plain) & set("/\\\0:")
        assert len(plain) < 80


def test_styles_without_a_mask_get_a_white_one_where_others_have_theirs(store, order, tmp_path):
    mask = kept(store, png(painting), "mask.png")
    order["styles"] = [{"picture": order["content"]}, order["styles"][0] | {"where": mask, "share": 3}]
    words = orders.words({"order": orders.checked(order, store)}, store, tmp_path)
    place = words.index("--content-mask")
    assert words[place + 1].startswith(str(tmp_path / "everywhere"))
    assert words[place + 2] == str(store.picture(mask)["path"])
    assert "--style-blend=1,3" in words
    assert "--style-mask" not in words


def test_a_larger_run_begins_above_the_size_that_is_done():
    order = {"options": {}, "styles": []}
    assert orders.going_on(order, 512, 2048, changed=False)["scales"] == "724,1024,1448"
    assert orders.going_on(order, 512, 512, changed=True)["scales"] == "off"
    assert orders.going_on(order, 181, 512, changed=True)["scales"] == "181,256,362"
    assert orders.going_on(order, 512, 512, changed=True)["iterations"] == 13  # 40 % of 32
    assert "iterations" not in orders.going_on({"options": {"iterations": 7}}, 181, 512, changed=True)
    larger = order | {"options": {"size": 2048, "enlarge": True}}
    assert not orders.differ(order, larger)
    assert orders.differ(order, order | {"options": {"strength": 60}})


def test_only_pictures_that_nobody_wants_are_tidied_away(store):
    picture = kept(store, png(scene), "a.png")
    folder = store.pictures / picture
    os.utime(folder, (0, 0))
    store.tidy({picture})
    assert kept(store, png(scene), "b.png") == picture  # given again
    store.tidy(set())
    assert folder.is_dir()
    os.utime(folder, (0, 0))
    store.tidy(set())
    assert not folder.exists()


def test_damaged_runs_are_left_alone(store):
    order = {"content": "x", "styles": [{}], "options": {}}
    half = {"id": "20260101-000004-0000", "made": "", "state": "done", "message": ""}
    records = ({"id": "other"}, half, half | {"order": order}, half | {"order": order | {"styles": None}})
    for number, text in enumerate(("{", "[]", "", "null", *map(json.dumps, records))):
        folder = store.runs / f"20260101-00000{number}-0000"
        folder.mkdir()
        (folder / "run.json").write_text(text)
    assert list(store.saved_runs()) == []
    with pytest.raises(NSTError, match="no such run"):
        Jobs(store, Hub()).run("../../etc")
