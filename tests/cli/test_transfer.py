"""`transfer`: what it writes, prints and returns."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from PIL import Image

from nst_manual.cli import transfer as command
from nst_manual.cli.main import main

QUICK = ["--style-layers", "conv1_1,conv2_1", "--content-layers", "conv2_2", "--iterations", "4", "--size", "48"]


def test_transfer_writes_the_picture_and_says_so(tmp_path, pictures, capsys):
    out = tmp_path / "out.png"
    assert main(["transfer", *pictures, "-o", str(out), *QUICK]) == 0
    with Image.open(out) as picture:
        assert picture.size == (48, 36)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "4/4 loss" in captured.err
    assert "48×36, all 4 iterations done" in captured.err
    assert sorted(os.listdir(tmp_path)) == ["content.png", "out.png", "style.png"]


def test_json_is_one_object_per_line(tmp_path, pictures, capsys):
    assert main(["transfer", *pictures, "-o", str(tmp_path / "out.png"), *QUICK, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("iteration") for line in lines] == [1, 2, 3, 4, None]
    assert {"iteration", "evaluations", "loss", "terms", "seconds", "left", "scale", "width"} <= set(lines[0])
    assert set(lines[0]["terms"]) == {"content:conv2_2", "style:conv1_1", "style:conv2_1"}
    assert "image" not in lines[0]
    assert lines[-1]["stopped"] == "iterations"


def test_quiet_says_nothing(tmp_path, pictures, capsys):
    assert main(["transfer", *pictures, "-o", str(tmp_path / "out.png"), *QUICK, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_the_content_can_come_through_standard_input(tmp_path, pictures):
    words = ["transfer", "-", pictures[1], "-o", "out.png", *QUICK, "--size", "original", "--quiet"]
    with open(pictures[0], "rb") as content:
        done = subprocess.run([sys.executable, "-m", "nst_manual", *words], stdin=content, cwd=tmp_path, check=False)
    assert done.returncode == 0
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (64, 48)


def test_ctrl_c_saves_the_picture_and_exits_130(tmp_path, pictures, monkeypatch, capsys):
    def interrupt(self, record):
        if record.iteration == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("nst_manual.cli.progress.Progress.__call__", interrupt)
    assert main(["transfer", *pictures, "-o", str(tmp_path / "out.png"), *QUICK]) == 130
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (48, 36)
    assert "interrupted" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_saves_the_picture_and_says_so(tmp_path, pictures, monkeypatch, capsys):
    monkeypatch.setattr("nst_manual.losses._sum_of_squares", lambda x: float("nan"))
    options = [*QUICK, "--engine", "reference"]  # whose sums they are
    assert main(["transfer", *pictures, "-o", str(tmp_path / "out.png"), *options]) == 1
    assert (tmp_path / "out.png").exists()
    assert "not finite" in capsys.readouterr().err


def test_the_picture_can_go_through_standard_output_but_not_beside_json(tmp_path, pictures, capsys):
    words = [sys.executable, "-m", "nst_manual", "transfer", *pictures, "-o", "-", *QUICK]
    done = subprocess.run(words, capture_output=True, check=True)
    with Image.open(io.BytesIO(done.stdout)) as picture:
        assert picture.size == (48, 36)
    assert main(["transfer", *pictures, "-o", "-", *QUICK, "--json"]) == 2
    assert "--json and -o - would both write to standard output" in capsys.readouterr().err


@pytest.mark.parametrize(("stopped", "code"), [("iterations", 0), ("interrupted", 130), ("not finite", 1)])
def test_the_exit_code_is_that_of_the_ending(tmp_path, pictures, monkeypatch, stopped, code):
    right = command.transfer
    monkeypatch.setattr(
        command, "transfer", lambda *words, **options: replace(right(*words, **options), stopped=stopped)
    )
    words = ["transfer", *pictures, "-o", str(tmp_path / "out.png"), *QUICK, "--iterations", "1", "--quiet"]
    assert main(words) == code
