"""Processes of this program that the page starts: the same commands that a person would type."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any


def program(words: list[str], stdout: Any, stderr: Any) -> subprocess.Popen[bytes]:
    """This program with these words. It hears Ctrl-C from us alone, not from the terminal, and we hold its input."""
    return subprocess.Popen(
        [sys.executable, "-m", "nst_manual", *words],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        env=environment(),
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
    )


def environment() -> dict[str, str]:
    """Ours, in which Python finds this package wherever it was started."""
    ours = str(Path(__file__).parents[2])
    paths = [ours, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8"}


def why_ended(said: Path, code: int) -> str:
    """The sentence with which the program ended, or that it had none."""
    with suppress(OSError):
        for line in reversed(said.read_text(encoding="utf-8", errors="replace").splitlines()):
            if line.startswith("nst_manual: "):
                return line.removeprefix("nst_manual: ")
    if code == -9:
        return "the system ended its process, most likely because memory ran out: choose a smaller size"
    return f"its process ended unexpectedly, with code {code}"
