"""Processes of this program that the page starts: the same commands that a person would type."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def started(words: list[str], said: Path) -> subprocess.Popen[bytes]:
    """A process of this program. It hears Ctrl-C from the server alone, not from the terminal."""
    with open(said, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "nst_manual", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=file,
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
    return f"its process ended unexpectedly, with code {code}"
