"""What a command says: exit codes, results and failures as sentences or as JSON, and the library's log."""

import argparse
import contextlib
import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ..errors import NSTError, plain
from ..options import OptionError
from ..runs.results import Result

DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130
EXIT_CODES = {
    DONE: "done",
    FAILED: "failed: something is missing, or a check did not pass",
    MISTAKE: "your mistake, explained in one sentence",
    INTERRUPTED: "interrupted; the best picture so far is saved, if there is one",
}
BAD_ENDINGS = (
    "not finite",
    "out of memory",
    "disk full",
    "disk failed",
    "device failed",
    "cluster lost",
)  # the picture before the failure is saved all the same


def sentence(error: NSTError) -> str:
    """An error on one line, its option named as on the command line."""
    return one_line(error.as_flag() if isinstance(error, OptionError) else str(error))


def one_line(text: str) -> str:
    return plain(" ".join(line.strip() for line in text.splitlines()))


def say(*lines: str, to: TextIO | None = None) -> None:
    """Prints lines, by default to standard output. Nothing in a name can command the terminal or begin a line."""
    print(*map(plain, lines), sep="\n", file=to or sys.stdout, flush=True)


def say_json(record: Any) -> None:
    print(json.dumps(record).replace("\x7f", "\\u007f"), flush=True)  # the one control character that JSON lets through


def make_printable(*streams: TextIO | None) -> None:
    """What a stream's encoding lacks is escaped from now on; it would be an error."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def fail(problem: str, code: int, as_json: bool) -> int:
    """Says why a command ends; returns its exit code."""
    if as_json:
        say_json({"error": problem, "code": code})
    say(f"nst_manual: {problem}", to=sys.stderr)
    return code


def tell(arguments: argparse.Namespace, record: Any, *lines: str) -> None:
    """A command's outcome on standard output: as JSON, as text, or not at all."""
    if arguments.json:
        say_json(record)
    elif not arguments.quiet:
        say(*lines)


def report(result: Result, arguments: argparse.Namespace) -> None:
    """A picture's last line."""
    if arguments.json:
        say_json({"output": str(result.path), "loss": result.loss, "stopped": result.stopped})
    if result.stopped in BAD_ENDINGS or not arguments.quiet:
        seconds = f" in {result.trace[-1].seconds:.1f} s" if result.trace else ""
        size = f"{result.image.width}×{result.image.height}"
        say(f"{result.path}: {size}, {result.message}{seconds}", to=sys.stderr)


def exit_code(result: Result, path: Path | None) -> int:
    """Of a run that was to write this picture."""
    if result.stopped in BAD_ENDINGS or result.path != path or result.unwritten:
        return FAILED
    return INTERRUPTED if result.stopped == "interrupted" else DONE


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


@contextlib.contextmanager
def log_shown(quiet: bool) -> Iterator[None]:
    """Shows the library's log on standard error while a command runs.

    Each message below a warning is shown once: a command of several runs names its weights and engine only once.
    """
    said: set[str] = set()

    def new(record: logging.LogRecord) -> bool:
        before = record.levelno <= logging.INFO and record.getMessage() in said
        said.add(record.getMessage())
        return not before

    ours, pillows = logging.getLogger("nst_manual"), logging.getLogger("PIL")
    shown = logging.StreamHandler()
    shown.addFilter(new)
    shown.setFormatter(_OneLine())
    silent = logging.NullHandler()  # our own errors already say what Pillow finds wrong with a file
    ours.setLevel(logging.WARNING if quiet else logging.INFO)
    ours.addHandler(shown)
    pillows.addHandler(silent)
    ours.propagate = False
    try:
        yield
    finally:
        ours.removeHandler(shown)
        pillows.removeHandler(silent)
        ours.setLevel(logging.NOTSET)
        ours.propagate = True
