"""`serve` and `--page` at the command line."""

import json
import re
import subprocess
import sys
import urllib.request

import pytest
from picture_files import drawn

from nst_manual.cli.main import main
from nst_manual.pictures.demo import painting, scene


@pytest.fixture
def words(tmp_path):
    for name, draw in (("c.png", scene), ("s.png", painting)):
        drawn(draw, 64, 48).save(tmp_path / name)
    names = [str(tmp_path / name) for name in ("c.png", "s.png", "out.png")]
    few = ["--size", "32", "--style-layers", "conv1_1", "--content-layers", "conv1_1", "--iterations", "3"]
    return ["transfer", *names[:2], "-o", names[2], *few]


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_without_the_extra_one_sentence_says_what_to_install(missing, words, monkeypatch, capsys):
    pytest.importorskip("starlette")
    monkeypatch.setitem(sys.modules, missing, None)
    for command in (["serve"], [*words, "--page"]):
        assert main(command) == 2
        expected = f"nst_manual: the page needs {missing}: python -m pip install starlette uvicorn"
        assert capsys.readouterr().err.splitlines()[-1] == expected


def test_mistakes_are_one_sentence(words, tmp_path, capsys):
    pytest.importorskip("uvicorn")
    for command, said in (
        (["serve", "--port", "70000"], "--port must be a number from 0 to 65535"),
        (
            ["serve", "--port", "0", "--host", "256.1.1.1", "--folder", str(tmp_path / "page")],
            "can't be served at 256.1.1.1",
        ),
        (["serve", "--folder", str(tmp_path / "c.png" / "x" / "page")], "can't be created"),
        ([*words[:3], "--out-dir", str(tmp_path), "--page"], "--page shows one run"),
        (["texture", words[2], "-o", words[4], "--compare-seeds", "1,2", "--page"], "--page shows one run"),
    ):
        assert main(command) == 2
        assert said in capsys.readouterr().err


def test_a_number_of_ipv6_is_a_name_in_brackets():
    pytest.importorskip("uvicorn")
    from nst_manual.page.serving import names_of

    assert "[fd00::7]" in names_of("FD00::7")
    assert names_of("127.0.0.1") == {"127.0.0.1", "localhost"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to all processes of a console")
def test_letting_other_machines_in_is_said_with_the_address_for_them(tmp_path):
    pytest.importorskip("uvicorn")
    command = [sys.executable, "-m", "nst_manual", "serve", "--no-browser", "--port", "0", "--host", "0.0.0.0"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "--folder", str(tmp_path / "page")], **streams) as server:
        token = server.stdout.readline().strip().partition("?")[2]
        server.terminate()
        said = server.communicate(timeout=30)[1]
    assert "not encrypted" in said
    assert re.search(rf"another machine: http://(?!127)[\w.-]+:\d+/\?{token}", said)


def test_what_comes_by_standard_input_is_left_to_the_run(tmp_path, words):
    pytest.importorskip("starlette")
    from nst_manual.page.orders import input_pictures

    assert input_pictures(tmp_path, "-", [words[2], str(tmp_path / "gone.png")]) == ["style1"]


@pytest.mark.skipif(sys.platform == "win32", reason="a folder that is read there can't be removed at once")
def test_a_run_of_the_command_line_is_shown_and_its_page_ends_with_it(words):
    pytest.importorskip("uvicorn")
    command = [sys.executable, "-m", "nst_manual", *words, "--page", "--iterations", "100000", "--time-limit", "6s"]
    with subprocess.Popen([*command, "--optimizer", "adam"], stderr=subprocess.PIPE, text=True) as run:
        address = next(found[1] for line in run.stderr if (found := re.search(r"page: (\S+)", line)))
        visitor = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        assert b"nst_manual" in visitor.open(address, timeout=30).read()
        base = address.partition("?")[0]
        about = json.loads(visitor.open(f"{base}about", timeout=30).read())
        assert about["watching"]
        assert about["runs"][0]["watched"] == "out.png"
        assert about["runs"][0]["inputs"] == ["content", "style1"]
        events, seen = visitor.open(f"{base}events", timeout=60), ""
        while "event: closed" not in seen:
            seen += events.readline().decode()
        assert '"iteration": 1' in seen
        assert '"state": "stopped"' in seen
        run.stderr.read()
        assert run.wait(30) == 0
