"""How a run shows how far it is: on a pseudo-terminal of any width, on a pipe, as JSON, and not at all."""

import dataclasses
import io
import json
import logging
import math
import os
import re
import subprocess
import sys
import threading

import pytest
from records import run

from nst_manual.cli.progress import Progress, bar_format, number
from nst_manual.cli.report import log_shown
from nst_manual.pictures.demo import painting, scene

TERMINALS = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals that Python can open")


class Terminal:
    """A pseudo-terminal of so many columns, and all that is written to it."""

    def __init__(self, columns):
        import fcntl
        import pty
        import struct
        import termios

        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = os.fdopen(theirs, "w", encoding="utf-8")
        self.written = b""
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        try:
            while piece := os.read(self.ours, 4096):
                self.written += piece
        except OSError:  # how Linux tells that the other end was closed
            pass

    def lines(self):
        """What stood on the terminal's line after each write."""
        self.stream.close()
        self.reader.join()
        os.close(self.ours)
        text = self.written.decode()
        return [re.sub(r"\x1b\[[A-Z]", "", line).rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def shown(columns, records, **options):
    terminal = Terminal(columns)
    with Progress(records[0].iterations, as_json=False, quiet=False, stream=terminal.stream, **options) as progress:
        progress.bar.mininterval = 0  # each record is drawn, however quick
        for record in records:
            progress(record)
    return terminal.lines()


@TERMINALS
def test_the_bar_tells_iteration_loss_terms_scale_and_time_left():
    lines = shown(120, run())
    assert lines[0].endswith("| 0/12")
    last_but_one = next(line for line in lines if " 11/12 " in line)
    assert "loss 2.23e5 (content 1.11e3, style 2.22e5, tv 50), 2/2 128×96, 00:00 left" in last_but_one
    assert last_but_one.startswith(" 92%|█")
    assert lines[-1].startswith("100%|█")
    assert " 12/12 " in lines[-1]


@TERMINALS
@pytest.mark.parametrize("columns", range(20, 201, 9))
def test_no_line_is_wider_than_the_terminal(columns):
    records = [dataclasses.replace(r, iterations=12000, left=36000.0 * 5) for r in run(iterations=3)]
    lines = shown(columns, records)
    assert len(lines) >= 3
    assert max(map(len, lines)) <= columns
    assert any("3/12000" in line for line in lines)


def test_where_there_is_little_room_the_less_important_is_left_out():
    record = dataclasses.replace(run()[10], iteration=110, iterations=120)
    texts = {columns: bar_format(record, columns) for columns in range(5, 130)}
    assert all("110/1" in text for columns, text in texts.items())
    for columns, text in texts.items():
        drawn = text.replace("{percentage:3.0f}%|{bar}| ", "x" * 12)
        assert len(drawn) <= columns
    for word, least in (("loss", 19), ("left", 31), ("{bar}", 43), ("style", 86), ("128×96", 93)):
        with_it = [columns for columns, text in texts.items() if word in text]
        assert with_it == list(range(least, 130)), word


@TERMINALS
def test_a_resumed_run_begins_in_the_middle():
    lines = shown(100, run()[8:])
    assert " 9/12 " in lines[1]
    assert lines[1].startswith(" 75%")


@TERMINALS
def test_a_run_whose_length_changes_is_counted_anew():
    records = [dataclasses.replace(record, iterations=24) for record in run()]
    assert any(line.startswith(" 50%") and " 12/24 " in line for line in shown(100, records))


@TERMINALS
def test_what_is_logged_stands_above_the_bar(monkeypatch):
    terminal = Terminal(100)
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    with log_shown(quiet=False), Progress(12, as_json=False, quiet=False) as progress:
        progress.bar.mininterval = 0
        progress(run()[0])
        logging.getLogger("nst_manual.test").warning("the folder vanished")
        progress(run()[1])
    monkeypatch.undo()
    assert "the folder vanished" in terminal.lines()  # alone on its line


def test_numbers_that_are_not_known_are_left_out_and_nan_is_told(capsys):
    record = dataclasses.replace(run()[11], left=math.nan, scales=1, loss=math.nan, terms={"style:conv1_1": math.nan})
    with Progress(12, as_json=False, quiet=False, stream=io.StringIO()) as progress:
        progress(record)
    assert progress.stream.getvalue() == "12/12 loss nan, 6.0 s\n"


def test_on_a_pipe_there_are_some_twenty_plain_lines():
    stream = io.StringIO()
    with Progress(300, as_json=False, quiet=False, stream=stream) as progress:
        for record in run(iterations=300):
            progress(record)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 21
    assert [int(line.split("/")[0]) for line in lines] == [1, *range(15, 301, 15)]
    assert lines[-1].startswith("300/300 loss ")
    assert lines[1].endswith("(content 1.15e3, style 7.40e4, tv 50), 1/2 64×48, 02:22 left, 7.5 s")


def test_a_slow_run_has_a_line_each_minute(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("nst_manual.cli.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    with Progress(300, as_json=False, quiet=False, stream=stream) as progress:
        for record in run(iterations=300)[:10]:
            now[0] += 25
            progress(record)
    assert [int(line.split("/")[0]) for line in stream.getvalue().splitlines()] == [1, 4, 7, 10]


def test_json_is_an_object_for_each_record(capsys):
    records = run()
    records[4] = dataclasses.replace(records[4], loss=math.inf)
    with Progress(12, as_json=True, quiet=False) as progress:
        for record in records:
            progress(record)
    captured = capsys.readouterr()
    assert [json.loads(line) for line in captured.out.splitlines()] == [record.numbers() for record in records]
    assert captured.err == ""


@TERMINALS
def test_quiet_is_quiet_on_a_terminal_too():
    terminal = Terminal(80)
    with Progress(12, as_json=False, quiet=True, stream=terminal.stream) as progress:
        for record in run():
            progress(record)
    assert terminal.lines() == []


def test_a_pipe_that_is_closed_does_not_end_the_run(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    for as_json in (True, False):
        with Progress(12, as_json=as_json, quiet=False, stream=Closed()) as progress:
            for record in run():
                progress(record)
        assert progress.closed


@TERMINALS
def test_a_terminal_that_is_closed_does_not_end_the_run():
    terminal = Terminal(80)
    with Progress(12, as_json=False, quiet=False, stream=terminal.stream) as progress:
        progress.bar.mininterval = 0
        progress(run()[0])
        real = os.dup(terminal.stream.fileno())
        os.dup2(os.open(os.devnull, os.O_RDONLY), terminal.stream.fileno())  # writing is an error from now on
        for record in run()[1:]:
            progress(record)
        assert progress.closed
        os.dup2(real, terminal.stream.fileno())
        os.close(real)
    terminal.lines()


@TERMINALS
def test_a_whole_run_on_a_terminal(tmp_path):
    scene(48, 36).save(tmp_path / "content.png")
    painting(48, 48).save(tmp_path / "style.png")
    words = ["transfer", "content.png", "style.png", "-o", "out.png", "--iterations", "3", "--scales", "32"]
    words += ["--style-layers", "conv1_1,conv2_1", "--content-layers", "conv2_2", "--size", "48"]
    terminal = Terminal(100)
    done = subprocess.run(
        [sys.executable, "-m", "nst_manual", *words], cwd=tmp_path, stderr=terminal.stream, check=False
    )
    lines = terminal.lines()
    assert done.returncode == 0, lines
    assert any(
        re.match(r"100%\|█+\| 5/5 loss \S+ \(content \S+, style \S+\), 2/2 48×36, 00:00 left$", x) for x in lines
    )
    assert lines[-1].startswith("out.png: 48×36")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((182.4, "182"), (999.0, "999"), (1820.0, "1.82e3"), (182000.0, "1.82e5"), (0.05, "0.05"), (1e-7, "1.00e-7")),
        *((0.0, "0"), (math.nan, "nan"), (math.inf, "inf")),
    ],
)
def test_numbers_take_few_characters(value, text):
    assert number(value) == text
