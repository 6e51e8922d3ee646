"""What a command says: exit codes, results and failures as sentences or as JSON, and the library's log."""

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import NSTError
from ..options import OptionError
from ..runs.results import Result

DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130
EXIT_CODES = {
    DONE: "done",
    FAILED: "failed: something is missing, or a check did not pass",
    MISTAKE: "your mistake, explained in one sentence",
    INTERRUPTED: "interrupted; the best picture so far is saved, if there is one",
}
BAD_ENDINGS = ("not finite", "out of memory")  # the picture before the failure is saved all the same


def sentence(error: NSTError) -> str:
    """An error on one line, its option named as on the command line."""
    text = error.as_flag() if isinstance(error, OptionError) else str(error)
    return " ".join(text.split())


def fail(problem: str, code: int, as_json: bool) -> int:
    """Says why a command ends; returns its exit code."""
    if as_json:
        print(json.dumps({"error": problem, "code": code}), flush=True)
    print(f"nst_manual: {problem}", file=sys.stderr)
    return code


def tell(arguments: argparse.Namespace, record: Any, text: str) -> None:
    """A command's outcome on standard output: as JSON, as text, or not at all."""
    if arguments.json:
        print(json.dumps(record))
    elif not arguments.quiet:
        print(text)


def report(result: Result, arguments: argparse.Namespace) -> None:
    """A picture's last line."""
    if arguments.json:
        print(json.dumps({"output": str(result.path), "loss": result.loss, "stopped": result.stopped}))
    if result.stopped in BAD_ENDINGS or not arguments.quiet:
        seconds = f" in {result.trace[-1].seconds:.1f} s" if result.trace else ""
        print(f"{result.path}: {result.image.width}×{result.image.height}, {result.message}{seconds}", file=sys.stderr)


def exit_code(result: Result, path: Path | None) -> int:
    """Of a run that was to write this picture."""
    if result.stopped in BAD_ENDINGS or result.path != path or result.unwritten:
        return FAILED
    return INTERRUPTED if result.stopped == "interrupted" else DONE


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
