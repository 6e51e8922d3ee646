"""The command line as a user meets it."""

import json
import os
import subprocess
import sys

import h5py
import pytest
from picture_files import drawn
from PIL import Image

from nst_manual.cli.main import main
from nst_manual.engines.cpu.threads import Workers
from nst_manual.pictures.demo import painting, scene

QUICK = ["--style-layers", "conv1_1,conv2_1", "--content-layers", "conv2_2", "--iterations", "4", "--size", "48"]


@pytest.fixture
def pictures(tmp_path):
    drawn(scene, 64, 48).save(tmp_path / "content.png")
    drawn(painting, 64, 64).save(tmp_path / "style.png")
    return str(tmp_path / "content.png"), str(tmp_path / "style.png")


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


def test_demo_draws_two_pictures_and_transfers_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--size", "64", "--iterations", "2", "--quiet"]) == 0
    assert sorted(os.listdir("nst_manual_demo")) == ["content.png", "result.png", "style.png"]


def test_gradient_writes_every_term(tmp_path, pictures, capsys):
    content, style = pictures
    options = ["--style-layers", "conv1_1,conv2_1", "--content-layers", "conv2_2", "--tv-weight", "0.1"]
    assert main(["gradient", content, content, style, "-o", str(tmp_path / "g.h5"), *options]) == 0
    with h5py.File(tmp_path / "g.h5") as file:
        assert set(file["gradient"]) == {"content:conv2_2", "style:conv1_1", "style:conv2_1", "tv", "total"}
        assert file["gradient/total"].shape == (48, 64, 3)
    assert "total" in capsys.readouterr().out


def test_gradient_maps_are_pictures_a_table_and_json(tmp_path, pictures, capsys):
    content, style = pictures
    options = ["--style-layers", "conv1_1,conv2_1", "--content-layers", "pre:relu2_2", "--size", "40"]
    words = ["gradient", content, content, style, "--maps", str(tmp_path / "maps"), *options]
    assert main(words) == 0
    names = ["content_pre_conv2_2.png", "style_conv1_1.png", "style_conv2_1.png", "total.png", "tv.png"]
    assert sorted(os.listdir(tmp_path / "maps")) == names
    table = capsys.readouterr().out
    assert "cosine" in table
    assert "ReLUs open" in table
    assert main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record["norm"]) == set(record["cosine"]) == set(record["share"]) | {"total"}
    assert record["layers"][0] == {"name": "pre:conv2_2", "norm": record["layers"][0]["norm"], "open": None}
    assert len(record["maps"]) == 5


def test_check_prints_the_table_and_exits_by_its_verdict(monkeypatch, capsys):
    assert main(["check", "--engine", "reference", "--precision", "float64"]) == 0
    captured = capsys.readouterr().out
    assert captured.count("  ok") == len(captured.splitlines()) - 3 > 12  # but the heading, the limits, the sentence
    assert captured.endswith("every derivative is right\n")
    right = sys.modules["nst_manual.layers"].conv_backward
    monkeypatch.setattr("nst_manual.layers.conv_backward", lambda d_y, kernel: right(d_y, kernel) * 1.001)
    assert main(["check", "--json", "--engine", "reference", "--precision", "float64"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["name"] for line in lines if not line["passed"]} >= {"convolution", "objective, paper, avg pooling"}
    assert next(line for line in lines if line["name"] == "ReLU")["passed"]


def mistakes(tmp_path, content, style):
    out = str(tmp_path / "out.png")
    (tmp_path / "junk.png").write_bytes(b"junk")
    Image.new("RGB", (9, 9)).save(tmp_path / "tiny.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "other.png")
    with h5py.File(tmp_path / "lacking.h5", "w") as file:
        file.create_group("block1_conv1")
    return {
        "unknown command": ["paint"],
        "no output": ["transfer", content, style],
        "unknown option": ["transfer", content, style, "-o", out, "--colour", "red"],
        "not a number": ["transfer", content, style, "-o", out, "--size", "big"],
        "missing content": ["transfer", str(tmp_path / "missing.png"), style, "-o", out],
        "missing style": ["transfer", content, str(tmp_path / "missing.png"), "-o", out],
        "a folder as content": ["transfer", str(tmp_path), style, "-o", out],
        "junk as style": ["transfer", content, str(tmp_path / "junk.png"), "-o", out],
        "a tiny content": ["transfer", str(tmp_path / "tiny.png"), style, "-o", out],
        "a tiny style": ["transfer", content, str(tmp_path / "tiny.png"), "-o", out],
        "an unknown layer": ["transfer", content, style, "-o", out, "--style-layers", "conv6_1"],
        "an unknown preset": ["transfer", content, style, "-o", out, "--preset", "picasso"],
        "missing weights": ["transfer", content, style, "-o", out, "--weights", str(tmp_path / "w.h5")],
        "weights that are a folder": ["transfer", content, style, "-o", out, "--weights", str(tmp_path)],
        "weights that are junk": ["transfer", content, style, "-o", out, "--weights", str(tmp_path / "junk.png")],
        "weights that lack a layer": ["transfer", content, style, "-o", out, "--weights", str(tmp_path / "lacking.h5")],
        "weights not installed": ["transfer", content, style, "-o", out, "--weights", "vgg19"],
        "an output folder that is not there": ["transfer", content, style, "-o", str(tmp_path / "no" / "out.png")],
        "an output of no known format": ["transfer", content, style, "-o", str(tmp_path / "out.xyz")],
        "an output that is a folder": ["transfer", content, style, "-o", str(tmp_path)],
        "a missing start": ["transfer", content, style, "-o", out, "--init", str(tmp_path / "missing.png")],
        "IMAGE and CONTENT of different sizes": [
            "gradient",
            str(tmp_path / "other.png"),
            content,
            style,
            "-o",
            str(tmp_path / "g.h5"),
        ],
        "a gradient folder that is not there": [
            "gradient",
            content,
            content,
            style,
            "-o",
            str(tmp_path / "no" / "g.h5"),
        ],
        "neither numbers nor maps": ["gradient", content, content, style],
        "maps in a file": ["gradient", content, content, style, "--maps", str(tmp_path / "junk.png")],
        "an unknown engine": ["check", "--engine", "tpu"],
        "16 bits in a JPEG": ["transfer", content, style, "-o", str(tmp_path / "out.jpg"), "--bits", "16"],
        "7 bits": ["transfer", content, style, "-o", out, "--bits", "7"],
        "no style scale": ["transfer", content, style, "-o", out, "--style-scale", "0"],
        "a picture that says nothing": ["repeat", content],
        "a demo below a file": ["demo", "-o", str(tmp_path / "junk.png" / "demo")],
    }


MISTAKES = [
    "unknown command", "no output", "unknown option", "not a number", "missing content", "missing style",
    "a folder as content", "junk as style", "a tiny content", "a tiny style", "an unknown layer", "an unknown preset",
    "missing weights", "weights that are a folder", "weights that are junk", "weights that lack a layer",
    "weights not installed", "an output folder that is not there", "an output of no known format",
    "an output that is a folder", "a missing start", "IMAGE and CONTENT of different sizes",
    "a gradient folder that is not there", "neither numbers nor maps", "maps in a file", "an unknown engine",
    "16 bits in a JPEG", "7 bits", "no style scale", "a picture that says nothing", "a demo below a file",
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence_and_exit_code_2(tmp_path, pictures, capsys, mistake):
    cases = mistakes(tmp_path, *pictures)
    assert list(cases) == MISTAKES
    before = sorted(os.listdir(tmp_path))
    assert main(cases[mistake]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith(("engine:", "memory:", "weights:"))]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("nst_manual: ")
    assert captured.out == ""
    assert sorted(os.listdir(tmp_path)) == before


RUNNING = {  # the commands that run an engine
    "transfer": ["transfer", "{content}", "{style}", "-o", "{out}.png"],
    "batch": ["transfer", "{content}", "{style}", "--out-dir", "{out}"],
    "texture": ["texture", "{style}", "-o", "{out}.png"],
    "reconstruct": ["reconstruct", "{content}", "-o", "{out}.png"],
    "demo": ["demo", "-o", "{out}"],
    "gradient": ["gradient", "{content}", "{content}", "{style}", "-o", "{out}.h5"],
    "check": ["check"],
}


def running(name, tmp_path, pictures):
    content, style = pictures
    return [word.format(content=content, style=style, out=tmp_path / "out") for word in RUNNING[name]]


@pytest.mark.parametrize("name", RUNNING)
@pytest.mark.parametrize("threads", ["0", "-1", "1.5", "many"])
def test_a_number_of_threads_that_makes_no_sense_is_told(tmp_path, pictures, capsys, name, threads):
    assert main([*running(name, tmp_path, pictures), "--threads", threads]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("weights:")]
    assert len(lines) == 1
    assert lines[0].startswith("nst_manual: ")
    assert "--threads" in lines[0]
    assert threads in lines[0]


@pytest.mark.parametrize("name", [name for name in RUNNING if name != "check"])
def test_the_engine_computes_with_so_many_threads(tmp_path, pictures, monkeypatch, name):
    given = []

    class Counted(Workers):
        def __init__(self, threads=None):
            given.append(threads)
            super().__init__(threads)

    monkeypatch.setattr("nst_manual.engines.cpu.engine.Workers", Counted)
    words = [*running(name, tmp_path, pictures), "--size", "24", "--engine", "cpu", "--threads", "3", "--quiet"]
    words += [] if name == "gradient" else ["--iterations", "1"]
    words += [] if name == "texture" else ["--content-layers", "conv1_1"]
    words += [] if name == "reconstruct" else ["--style-layers", "conv1_1"]
    assert main(words) == 0
    assert given == [3]


def test_an_unknown_layer_lists_the_known_ones(pictures, tmp_path, capsys):
    main(["transfer", *pictures, "-o", str(tmp_path / "out.png"), "--style-layers", "conv6_1"])
    assert "conv1_1, conv1_2, conv2_1" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_told_before_the_pictures_are_read(tmp_path, capsys):
    main(["transfer", "no.png", "no.png", "-o", str(tmp_path / "no" / "out.png")])
    assert "the folder" in capsys.readouterr().err


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


def test_the_module_runs_as_a_program(tmp_path):
    command = [sys.executable, "-m", "nst_manual", "transfer", "missing.png", "missing.png", "-o", "out.png"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr == "nst_manual: missing.png does not exist\n"


def test_every_option_is_explained(capsys):
    for command in ("transfer", "demo", "gradient", "check"):
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        assert end.value.code == 0
    assert "--precision" in capsys.readouterr().out
