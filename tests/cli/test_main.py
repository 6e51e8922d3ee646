"""The command line as a user meets it: help, mistakes and exit codes."""

import json
import os
import re
import shlex
import subprocess
import sys

import h5py
import pytest
from PIL import Image

from nst_manual.cli.main import build_parser, main
from nst_manual.engines.cpu.threads import Workers
from nst_manual.settings import options_of
from nst_manual.study.figures.figures import FIGURES


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
            "--maps",
            str(tmp_path / "maps"),
        ],
        "a gradient folder that is not there": [
            "gradient",
            content,
            content,
            style,
            "-o",
            str(tmp_path / "no" / "g.h5"),
        ],
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
    "a gradient folder that is not there", "maps in a file", "an unknown engine",
    "16 bits in a JPEG", "7 bits", "no style scale", "a picture that says nothing", "a demo below a file",
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_sentence_and_exit_code_2(tmp_path, pictures, capsys, mistake):
    cases = mistakes(tmp_path, *pictures)
    assert list(cases) == MISTAKES
    before = sorted(os.listdir(tmp_path))
    assert main(cases[mistake]) == 2
    captured = capsys.readouterr()
    lines = [
        line for line in captured.err.splitlines() if not line.startswith(("size:", "engine:", "memory:", "weights:"))
    ]
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


def test_the_module_runs_as_a_program(tmp_path):
    command = [sys.executable, "-m", "nst_manual", "transfer", "missing.png", "missing.png", "-o", "out.png"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr == "nst_manual: missing.png does not exist\n"


def test_by_itself_the_program_shows_its_commands(capsys):
    for words, told in (([], "transfer"), (["weights"], "normalise"), (["figure"], "optimizers")):
        assert main(words) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert told in captured.err


def helped(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_the_main_help_has_the_exit_codes(capsys):
    text = helped(capsys)
    for code in ("0", "1", "2", "130"):
        assert re.search(rf"^  {code} +\w", text, re.MULTILINE)


COMMANDS = [
    *("transfer", "texture", "reconstruct", "gradient", "check", "evaluate", "explain", "repeat", "demo"),
    *(f"figure {name}" for name in FIGURES),
    *("style-targets save", "style-targets load"),
    *(f"weights {action}" for action in ("list", "get", "convert", "inspect", "normalise")),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_has_examples_that_can_be_typed(capsys, command):
    text = helped(capsys, *command.split())
    examples = re.findall(r"^  python -m nst_manual (.*)", text.partition("examples:")[2], re.MULTILINE)
    assert len(examples) >= 2
    for example in examples:
        assert example.startswith(command)
        build_parser().parse_args(shlex.split(example))


def test_the_help_of_a_run_is_in_groups_and_says_what_goes_in(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = helped(capsys, "transfer")
    headings = re.findall(r"^(\w+):$", text, re.MULTILINE)
    assert headings == ["pictures", "sizes", "look", "network", "search", "run", "output", "general", "examples"]
    for shown in ("--trace FILE", "--out-dir FOLDER", "--time-limit DURATION", "--max-memory BYTES", "--seed N"):
        assert shown in text
    assert "--style-layers LIST" in text
    assert "at the first scale, if there are several (default: 32, or the preset's)" in text


@pytest.mark.parametrize(
    "command", ["transfer", "batch", "reconstruct", "texture", "demo", "gradient", "check", "evaluate"]
)
def test_a_command_has_the_options_of_its_rows_in_the_table(capsys, command):
    text = helped(capsys, "transfer" if command == "batch" else command)
    for name in options_of():
        flag = f"--{name.replace('_', '-')}"
        if name in options_of(command):
            assert flag in text
        elif command not in ("batch", "check") and name not in ("output", "overwrite"):  # some commands have their own
            assert not re.search(rf"{flag}[ ,]", text.partition("examples:")[0])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trasnfer"], "did you mean transfer?"),
        (["weights", "lost"], "did you mean list?"),
        (["figure", "gird"], "did you mean grid?"),
        (["transfer", "a.png", "b.png", "--iteratoins", "3"], "no option --iteratoins: did you mean --iterations?"),
        (["gradient", "--stile-weight=3"], "no option --stile-weight: did you mean --style-weight?"),
        (["transfer", "a.png", "b.png", "-o", "c.png", "--preset", "papper"], "did you mean paper?"),
        (
            ["transfer", "a.png", "b.png", "-o", "c.png", "--init", "nosie"],
            "--init must be one of content, noise, pink",
        ),
        (
            ["transfer", "a.png", "b.png", "-o", "c.png", "--scales", "many"],
            "--scales must be ladder, auto, off, or longer sides",
        ),
        (["transfer", "a.png", "b.png", "-o", "c.png", "--max-memory", "lots"], "--max-memory must be .*, not 'lots'"),
        (["transfer", "a.png", "b.png", "-o", "c.png", "--time-limit", "Soon"], "--time-limit must be .*, not 'Soon'"),
        (["transfer", "a.png", "b.png", "-o", "c.png", "--size", "big"], "--size must be a whole number or 'original'"),
        (["check", "--engine", "gpu"], "--engine must be one of auto, .*, not 'gpu'"),
        (["repeat", "a.png", "b.png"], "unexpected: b.png"),
        (["transfer", "a.png", "b.png"], "give either -o OUT for one picture, or --out-dir FOLDER"),
        (["transfer", "a.png", "b.png", "-o", "c.png", "--out-dir", "d"], "give either -o OUT for one picture, or"),
        (
            ["weights", "normalise", "a.h5", "b.h5", "--images", "c.png", "--threads", "0"],
            "--threads must be .*, not 0",
        ),
    ],
)
def test_a_mistyped_word_is_told_with_what_was_probably_meant(capsys, words, told):
    assert main(words) == 2
    assert re.search(told.replace("?", r"\?"), capsys.readouterr().err)


def test_with_json_an_error_is_an_object_too(tmp_path, capsys):
    out = str(tmp_path / "out.png")
    assert main(["transfer", "missing.png", "missing.png", "-o", out, "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"error": "missing.png does not exist", "code": 2}
    assert captured.err == "nst_manual: missing.png does not exist\n"
    assert main(["transfer", "a.png", "b.png", "--json", "--size", "0", "-o", out]) == 2
    assert json.loads(capsys.readouterr().out)["error"].startswith("--size must be")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError("9 GB"), 1),
        (MemoryError(), 1),
        (ImportError("libopenblas.so: failed to map segment from shared object"), 1),
        (RuntimeError("can't start new thread"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_other_endings_have_codes_of_their_own(monkeypatch, capsys, error, code):
    def fail(path):
        raise error

    monkeypatch.setattr("nst_manual.cli.explain.load_trace", fail)
    assert main(["explain", "trace.csv", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["code"] == code


@pytest.mark.parametrize("error", [ImportError("No module named 'numpy'"), RuntimeError("a mistake of ours")])
def test_any_other_error_keeps_its_traceback(monkeypatch, error):
    def fail(path):
        raise error

    monkeypatch.setattr("nst_manual.cli.explain.load_trace", fail)
    with pytest.raises(type(error)):
        main(["explain", "trace.csv"])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps to a limit of addresses")
@pytest.mark.parametrize(("limit", "told"), [(200, "it takes at least 256 MiB"), (600, "out of memory")])
def test_with_too_little_memory_the_program_ends_soon_with_one_sentence(tmp_path, pictures, limit, told):
    words = ["transfer", *pictures, "-o", "out.png", "--size", "32", "--iterations", "1", "--quiet", "--threads", "64"]
    command = ["bash", "-c", f'ulimit -v {limit << 10}; exec "$@"', "", sys.executable, "-m", "nst_manual", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 1
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == ["content.png", "style.png"]
