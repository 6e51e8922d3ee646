"""What is printed: names from outside cannot command the terminal, and no name and no encoding ends in a traceback."""

import io
import json
import os
import shlex
import subprocess
import sys

import pytest
from picture_files import drawn
from test_main import COMMANDS

from nst_manual.cli.main import main
from nst_manual.errors import plain
from nst_manual.pictures.demo import painting, scene
from nst_manual.proof.checks import random_filters
from nst_manual.vgg import steps_to
from nst_manual.weights import Weights
from nst_manual.weights.formats.hdf5 import write_hdf5

HOSTILE = "a\x1b[2Jb\u202ec\x9b" + ("\udcff" if sys.platform == "linux" else "")  # other systems' names are Unicode
ODD_NAMES = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
QUICK = ["--engine", "reference", "--style-layers", "conv1_1", "--size", "24"]
RUN = [*QUICK, "--iterations", "1", "--content-layers", "conv1_1"]


@pytest.mark.parametrize("letter", ["\x1b", "\x07", "\r", "\n", "\x7f", "\x9b", "\u202e", "\u2066", "\u200f", "\udcff"])
def test_what_commands_a_terminal_is_escaped(letter):
    assert plain(f"a{letter}b") == f"a{letter!r}b".replace("'", "")
    assert plain(f"a{letter}b").isprintable()


@pytest.mark.parametrize("name", ["été.png", "家族\u3000写真.png", "👨\u200d👩\u200d👧.png", "می\u200cروم.png"])
def test_what_people_write_stays_as_it_is(name):
    assert plain(name) == name


def told(capsys):
    """What was printed, once it is known to command no terminal."""
    captured = capsys.readouterr()
    for line in (captured.out + captured.err).split("\n"):
        assert plain(line) == line
    return captured.out + captured.err


@pytest.mark.parametrize("command", [*COMMANDS, "", "weights", "figure", "nonsense"])
def test_every_commands_mistakes_are_printable(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    for words in (
        [HOSTILE],
        [HOSTILE, HOSTILE],
        [HOSTILE, HOSTILE, HOSTILE],
        [f"{HOSTILE}.png", f"{HOSTILE}.png", "-o", f"{HOSTILE}.png"],
        [f"{HOSTILE}.png", f"{HOSTILE}.png", "--out-dir", HOSTILE],
        [f"{HOSTILE}/*", f"{HOSTILE}[x", "--out-dir", HOSTILE, "--name", HOSTILE],
        [f"--{HOSTILE}"],
        ["--size", HOSTILE],
    ):
        assert main([*command.split(), *words]) in (0, 2)
        told(capsys)


@ODD_NAMES
def test_every_commands_lines_are_printable(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content, style, out = (f"{word}{HOSTILE}" for word in ("content", "style", "out"))
    for name, draw in ((f"{content}.png", scene), (f"{style}.png", painting)):
        with open(name, "wb") as file:
            drawn(draw, 24, 24).save(file, "PNG")
    text = HOSTILE.rstrip("\udcff")  # of attributes in a file
    weights = Weights(random_filters(steps_to("conv1_1"), 1), (120.0, 115.0, 100.0), "oxford", text, text)
    write_hdf5(tmp_path / "w.h5", weights)
    os.rename("w.h5", f"{HOSTILE}.h5")
    pictures, network = [f"{content}.png", f"{style}.png"], ["--weights", f"{HOSTILE}.h5"]
    assert main(["transfer", *pictures, "-o", f"{out}.png", "--trace", f"{out}.csv", *RUN, *network]) == 0
    assert "out" + plain(HOSTILE) in told(capsys)
    for words in (
        ["transfer", *pictures, "--out-dir", f"{out}s", *RUN],
        ["texture", pictures[1], "-o", f"{out}1.png", *RUN[:-2]],
        ["reconstruct", pictures[0], "-o", f"{out}2.png", *QUICK[:2], *RUN[-6:]],
        ["gradient", pictures[0], *pictures, "-o", f"{out}.h5", "--maps", f"{out}m", *QUICK, *RUN[-2:]],
        ["explain", f"{out}.csv"],
        ["style-targets", "save", pictures[1], "-o", f"{out}.npz", *QUICK, *network],
        ["style-targets", "load", f"{out}.npz"],
        ["demo", "-o", f"{out}d", *RUN],
        ["figure", "layers", *pictures, "-o", f"{out}f.png", *RUN],
        ["weights", "convert", f"{HOSTILE}.h5", f"{out}w.h5"],
    ):
        assert main(words) == 0, words
        told(capsys)
    assert main(["weights", "inspect", f"{HOSTILE}.h5"]) == 0
    assert plain(HOSTILE) in told(capsys)
    assert main(["repeat", f"{out}.png"]) == 2  # the recipe's names could be anybody's


@ODD_NAMES
def test_repeats_command_is_exact(tmp_path, monkeypatch, capsysbinary):
    monkeypatch.chdir(tmp_path)
    drawn(scene, 24, 24).save("content.png")
    out = os.fsencode(f"it's {HOSTILE}\n\\.png")
    assert main(["transfer", "content.png", "content.png", "-o", "out.png", *RUN, "--quiet"]) == 0
    os.rename("out.png", out)
    assert main(["repeat", os.fsdecode(out)]) == 0
    line = capsysbinary.readouterr().out.rstrip(b"\n")
    assert line.decode().isprintable()
    printed = subprocess.run(["bash", "-c", b"printf '%s\\0' " + line], capture_output=True, check=True).stdout
    assert out in printed.split(b"\0")


def test_a_name_that_begins_with_a_dash_is_repeated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    drawn(scene, 24, 24).save("-in.png")
    assert main(["transfer", "./-in.png", "./-in.png", "-o=-out.png", *RUN, "--quiet"]) == 0
    assert main(["repeat", "--run", "--quiet", "--", "-out.png"]) == 0
    assert os.path.exists("-out.repeated.png")
    assert main(["repeat", "--", "-out.png"]) == 0
    assert shlex.split(capsys.readouterr().out)[4:8] == ["./-in.png", "./-in.png", "-o", "./-out.png"]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "cp1252"])
def test_a_stream_of_any_encoding_takes_every_line(tmp_path, monkeypatch, encoding):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, "strict") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    monkeypatch.chdir(tmp_path)
    drawn(scene, 24, 24).save("photo 家.png")
    assert main(["transfer", "photo 家.png", "photo 家.png", "-o", "out 家.png", *RUN]) == 0
    assert main(["repeat", "out 家.png"]) == 0
    assert main(["explain", f"{HOSTILE}.csv"]) == 2
    assert main(["weights", "list"]) == 0
    assert main(["weights"]) == 2  # its help
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)
    name = "out 家.png" if encoding == "utf-8" else "out \\u5bb6.png"
    assert name in err
    assert name in out


def test_json_holds_no_control_character(tmp_path, capsys):
    assert main(["explain", "a\x7f\x1b.csv", "--json"]) == 2
    out = capsys.readouterr().out
    assert out.rstrip("\n").isprintable()
    assert "a\\x7f\\x1b.csv" in json.loads(out)["error"]
